"""The end of a sweep: one table, best run first, from what the jobs wrote into their folders."""

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from bertlens.cli.launch import ERROR_FILE
from bertlens.run.folder import relative
from bertlens.system.escape import csv_row, csv_text, terminal_text
from bertlens.system.files import atomic_write

# chosen by validation: choosing by the test reviews would make their figure too good
RANKED_BY = "val/accuracy"
SHOWN = (RANKED_BY, "test/accuracy", "test/loss")


class SweepTable(Callback):
    """Prints the table, writes `sweep.csv` beside the jobs, and lets a failed job show in the exit status."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        rows = sorted(read_jobs(folder), key=lambda row: -row.get(RANKED_BY, -1.0))
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(folder / "sweep.csv", "w") as file:
            writer = csv.DictWriter(file, fieldnames=[csv_text(name) for name in columns])
            writer.writeheader()
            writer.writerows(map(csv_row, rows))
        # what all runs have in common says nothing here; sweep.csv has it
        columns = [
            name for name in columns if name in SHOWN or len(rows) == 1 or len({str(row.get(name)) for row in rows}) > 1
        ]
        table = Table(title=f"{len(rows)} runs, best validation accuracy first")
        for name in columns:
            table.add_column(terminal_text(name), justify="right" if name in SHOWN or name == "seconds" else "left")
        for row in rows:
            table.add_row(*(terminal_text(_shown(row.get(name, ""))) for name in columns))
        console = Console()
        console.print(table)
        console.print(terminal_text(relative(folder / "sweep.csv")), soft_wrap=True)
        if any("error" in row for row in rows):
            raise SystemExit(1)


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """What each job of a sweep was given and what came out of it."""
    rows = []
    for job in sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        overrides = OmegaConf.load(job / ".hydra" / "overrides.yaml")
        parts = (str(override).partition("=") for override in overrides)  # ~key, which takes one away, has no value
        row: dict[str, Any] = {"run": job.name} | {name: value for name, _, value in parts}
        if (job / "metrics.json").is_file():
            content = json.loads((job / "metrics.json").read_text(encoding="utf-8"))
            row |= {name: content["metrics"][name] for name in SHOWN if name in content["metrics"]}
            row["seconds"] = round(sum(content["seconds"].values()), 1)
        else:
            error = job / ERROR_FILE
            row["error"] = error.read_text(encoding="utf-8").strip() if error.is_file() else "did not finish"
        rows.append(row)
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 10 else f"{value:.1f}"
    return str(value)
