"""The table at the end of a sweep, from the files that its jobs leave."""

import json

from bertlens.run.folder import ERROR_SUFFIX
from bertlens.run.sweep import write_table


def test_jobs_that_failed_for_the_same_reason_are_named_in_one_line(tmp_path, capsys):
    for job, error in {"seed-1": "no memory", "seed-2": "no such file", "seed-3": "no memory"}.items():
        (tmp_path / f"{job}{ERROR_SUFFIX}").write_text(error)
    assert not write_table(tmp_path)
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert failed == ["failed: seed-1, seed-3: no memory", "failed: seed-2: no such file"]


def test_runs_without_validation_reviews_are_in_no_order(tmp_path, capsys):
    for job in ("seed-1", "seed-2"):
        (tmp_path / job / ".hydra").mkdir(parents=True)
        (tmp_path / job / ".hydra" / "overrides.yaml").write_text(f"[{job.replace('-', '=')}]")
        content = {"metrics": {"test/accuracy": 0.5}, "seconds": {"fit": 1}}
        (tmp_path / job / "metrics.json").write_text(json.dumps(content))
    assert write_table(tmp_path)
    printed = capsys.readouterr().out
    assert "2 runs:" in printed
    assert "first" not in printed
