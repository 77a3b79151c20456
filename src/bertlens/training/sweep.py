"""The end of a sweep: one table, best run first, from what the jobs wrote into their folders."""

import csv
import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertlens.files import atomic_write
from bertlens.launch import ERROR_FILE
from bertlens.run import relative

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
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows({name: csv_text(value) for name, value in row.items()} for row in rows)
        # what all runs have in common says nothing here; sweep.csv has it
        columns = [
            name for name in columns if name in SHOWN or len(rows) == 1 or len({str(row.get(name)) for row in rows}) > 1
        ]
        table = Table(title=f"{len(rows)} runs, best validation accuracy first")
        for name in columns:
            table.add_column(name, justify="right" if name in SHOWN or name == "seconds" else "left")
        for row in rows:
            table.add_row(*(Text(_shown(row.get(name, ""))) for name in columns))
        console = Console()
        console.print(table)
        console.print(relative(folder / "sweep.csv"), highlight=False, soft_wrap=True)
        if any("error" in row for row in rows):
            raise SystemExit(1)


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """What each job of a sweep was given and what came out of it."""
    rows = []
    for job in sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        overrides = OmegaConf.load(job / ".hydra" / "overrides.yaml")
        row: dict[str, Any] = {"run": job.name} | dict(str(override).split("=", 1) for override in overrides)
        if (job / "metrics.json").is_file():
            content = json.loads((job / "metrics.json").read_text(encoding="utf-8"))
            row |= {name: content["metrics"][name] for name in SHOWN if name in content["metrics"]}
            row["seconds"] = round(sum(content["seconds"].values()), 1)
        else:
            error = job / ERROR_FILE
            row["error"] = error.read_text(encoding="utf-8").strip() if error.is_file() else "did not finish"
        rows.append(row)
    return rows


def csv_text(value: Any) -> Any:
    """A cell that a spreadsheet will not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 10 else f"{value:.1f}"
    return "".join(c if c.isprintable() else " " for c in str(value))
