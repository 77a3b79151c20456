"""The end of a sweep: one table, best run first, from what the jobs wrote into their folders."""

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from bertlens.run.folder import ERROR_SUFFIX, HYDRA_FOLDER
from bertlens.system.escape import csv_row, csv_text, terminal_text
from bertlens.system.files import atomic_write, relative

# chosen by validation: choosing by the test reviews would make their figure too good
RANKED_BY = "val/accuracy"
SHOWN = (RANKED_BY, "test/accuracy", "test/loss")

ended_sweeps: list[Path] = []  # folders of the sweeps that this process ran


class NoteSweep(Callback):
    """Note where a sweep lies. Its table is written later: Hydra makes a warning of a callback's error."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        ended_sweeps.append(folder)
        for error in folder.rglob(f"*{ERROR_SUFFIX}"):  # of an earlier try
            error.unlink()


def write_table(folder: Path) -> bool:
    """Print the table of the sweep in `folder` and write `sweep.csv`. Return whether every job succeeded."""
    rows = sorted(read_jobs(folder), key=lambda row: -row.get(RANKED_BY, -1.0))
    if not rows:
        return True
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(folder / "sweep.csv", "w") as file:
        writer = csv.DictWriter(file, fieldnames=[csv_text(name) for name in columns])
        writer.writeheader()
        writer.writerows(map(csv_row, rows))
    # sweep.csv also has what all runs have in common
    varying = [name for name in columns if len(rows) == 1 or len({str(row.get(name)) for row in rows}) > 1]
    columns = [name for name in columns if name in SHOWN or (name in varying and name != "run")]
    table = Table(title=f"{len(rows)} runs, best validation accuracy first")
    for name in columns:
        table.add_column(terminal_text(name), justify="right" if name in SHOWN or name == "seconds" else "left")
    for row in rows:
        table.add_row(*(terminal_text(_shown(row.get(name, ""))) for name in columns))
    console = Console()
    console.print(table)
    console.print(terminal_text(relative(folder / "sweep.csv")), soft_wrap=True)
    return not any("error" in row for row in rows)


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """Return what each job of a sweep was given and what came out of it."""
    jobs = {path.parent for path in folder.rglob(HYDRA_FOLDER)}
    jobs |= {path.with_name(path.name.removesuffix(ERROR_SUFFIX)) for path in folder.rglob(f"*{ERROR_SUFFIX}")}
    rows = []
    for job in sorted(jobs):
        row: dict[str, Any] = {"run": str(job.relative_to(folder))}
        if (job / HYDRA_FOLDER / "overrides.yaml").is_file():
            overrides = OmegaConf.load(job / HYDRA_FOLDER / "overrides.yaml")
            parts = (str(override).partition("=") for override in overrides)  # ~key, which removes one, has no value
            row |= {name: value for name, _, value in parts}
        if (job / "metrics.json").is_file():
            content = json.loads((job / "metrics.json").read_text(encoding="utf-8"))
            row |= {name: content["metrics"][name] for name in SHOWN if name in content["metrics"]}
            row["seconds"] = round(sum(content["seconds"].values()), 1)
        error_file = job.with_name(job.name + ERROR_SUFFIX)
        if error_file.is_file():
            row["error"] = error_file.read_text(encoding="utf-8").strip()
        elif "seconds" not in row:
            row["error"] = "did not finish"
        rows.append(row)
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 10 else f"{value:.1f}"
    return str(value)
