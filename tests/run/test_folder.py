"""A run's folder changes only when the run can start, and holds what came out of it."""

import json
import os
import time
from pathlib import Path

import pytest

from bertlens.config import EvaluateConfig, TrainConfig
from bertlens.errors import InputError
from bertlens.run.folder import Run, settings_of_the_steps, settings_that_matter
from bertlens.system import stopping


@pytest.fixture
def finished(tmp_path):
    """A folder with a finished run."""
    run = Run(tmp_path / "run", ["seed=1"])
    run.begin(TrainConfig())
    run.checkpoints.mkdir()
    run.last_checkpoint.write_text("weights")
    run.write_metrics({"val/accuracy": 0.5}, settings=settings_that_matter(TrainConfig()))
    return run


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(finished):
    before = content(finished.folder)
    with pytest.raises(InputError) as caught:
        Run(finished.folder).begin(TrainConfig())
    for choice in ("resume=", "hydra.run.dir=", "overwrite=true"):
        assert choice in str(caught.value)
    with pytest.raises(InputError, match="holds a finished run"):
        Run(finished.folder).begin(EvaluateConfig())
    assert content(finished.folder) == before


def test_overwrite_replaces_the_run_and_nothing_else(finished):
    (finished.folder / "notes.txt").write_text("mine")
    (finished.folder / "events.out.tfevents.1").write_text("curves")
    Run(finished.folder, ["seed=2"]).begin(TrainConfig(overwrite=True))
    assert {str(path) for path in content(finished.folder)} == {
        "notes.txt",
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
    }
    assert "seed=2" in (finished.folder / ".hydra" / "overrides.yaml").read_text()


def test_a_resumed_run_keeps_its_checkpoints(finished):
    Run(finished.folder).begin(TrainConfig(resume="auto"), resumed=finished.last_checkpoint)
    assert finished.last_checkpoint.read_text() == "weights"
    assert not (finished.folder / "metrics.json").exists()


def test_a_finished_run_is_known_by_its_settings(finished):
    assert Run(finished.folder).is_finished(TrainConfig())
    assert Run(finished.folder).is_finished(TrainConfig(print_every=3, cache_dir="elsewhere"))
    assert not Run(finished.folder).is_finished(TrainConfig(seed=2))
    (finished.folder / "metrics.json").write_text("[1]")
    assert not Run(finished.folder).is_finished(TrainConfig())


def test_further_processes_of_a_run_leave_the_folder_alone(finished, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    before = content(finished.folder)
    Run(finished.folder).begin(TrainConfig())
    assert content(finished.folder) == before


def test_seconds_and_speed_are_those_of_what_was_computed(tmp_path):
    run = Run(tmp_path / "run")
    with run.stage("fit") as stage:
        time.sleep(0.05)
        stage.num_reviews = 7
    with run.stage("data"):
        pass
    written = run.write_metrics({"a": 1})
    assert written["seconds"]["fit"] >= 0.05
    assert written["reviews_per_second"] == {"fit": pytest.approx(7 / written["seconds"]["fit"], rel=0.01)}
    assert json.loads((run.folder / "metrics.json").read_text()) == written


def test_what_decides_the_steps_is_part_of_what_matters():
    steps, all_that_matters = settings_of_the_steps(TrainConfig()), settings_that_matter(TrainConfig())
    assert steps.items() <= all_that_matters.items()
    assert "report" in all_that_matters
    assert "report" not in steps


def test_latest_leads_to_the_newest_training_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    latest = tmp_path / "outputs" / "latest"
    Run(tmp_path / "elsewhere").begin(TrainConfig())
    assert not os.path.lexists(latest)
    for name in ("train/1/2", "sweeps/1/2/seed-3"):
        Run(tmp_path / "outputs" / name).begin(TrainConfig())
        assert os.readlink(latest) == name  # also right when outputs/ is moved
    Run(tmp_path / "outputs" / "evaluate").begin(EvaluateConfig())
    assert latest.resolve() == tmp_path / "outputs" / "sweeps" / "1" / "2" / "seed-3"
    assert sorted(path.name for path in latest.parent.iterdir()) == ["evaluate", "latest", "sweeps", "train"]


def test_a_run_begins_where_there_can_be_no_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "latest").mkdir(parents=True)  # a folder of the user's
    run = Run(tmp_path / "outputs" / "train")
    run.begin(TrainConfig())
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    run.begin(TrainConfig())
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["latest", "train"]


def test_a_request_to_stop_ends_the_run_between_stages(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "check", lambda: (_ for _ in ()).throw(stopping.Stopped(15)))
    with pytest.raises(stopping.Stopped), Run(tmp_path).stage("data"):
        pass
