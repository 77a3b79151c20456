"""The end of a sweep: one table, best run first, from what the jobs wrote into their folders."""

import csv
import json
import re
import signal
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bertlens.run.folder import ERROR_SUFFIX, HYDRA_FOLDER
from bertlens.system.escape import csv_row, csv_text, one_line_of, terminal_text
from bertlens.system.files import atomic_write, relative
from bertlens.system.wording import count_of

# chosen by validation: choosing by the test reviews would make their figure too good
RANKED_BY = "val/accuracy"
REPEATS = {"seed": "seeds", "data.fold": "folds"}  # keys that vary nothing but chance
SHOWN = (RANKED_BY, "test/accuracy", "test/loss")

# of the sweeps that this process ran, by folder: the SLURM jobs of earlier tries, as submitit's files
earlier_jobs: dict[Path, set[Path]] = {}


class NoteSweep(Callback):
    """Note where a sweep lies. Its table is written later: Hydra makes a warning of a callback's error."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        earlier_jobs[folder] = set()
        for error in folder.rglob(f"*{ERROR_SUFFIX}"):  # of an earlier try
            error.unlink()
        if config.hydra.launcher._target_.endswith("SlurmLauncher"):
            from bertlens.run.slurm import SUBMITTED, submitted_jobs, watch_queue

            earlier_jobs[folder] = submitted_jobs(folder)
            watch_queue()
            print(f"SLURM runs the jobs; Ctrl-C leaves them to it; logs: {relative(folder / SUBMITTED)}", flush=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)


def write_table(folder: Path) -> bool:
    """Print the table of the sweep in `folder` and write `sweep.csv`. Return whether every job succeeded.

    Only the keys that vary are printed. Where `seed` or `data.fold` is one of them, there is also the mean and the
    standard deviation over them, for each choice of the other keys.
    """
    rows = sorted(read_jobs(folder), key=lambda row: -row.get(RANKED_BY, -1.0))
    if not rows:
        return True
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(folder / "sweep.csv", "w") as file:
        writer = csv.DictWriter(file, fieldnames=[csv_text(name) for name in columns])
        writer.writeheader()
        writer.writerows(map(csv_row, rows))
    done = [row for row in rows if "seconds" in row]
    if done:
        _print_jobs(folder, done, columns)
    if len(done) == len(rows) and all("data.fold" in row for row in rows):
        from bertlens.run.labels import gather_folds  # imports torch

        gather_folds(folder)
    print()
    failed: dict[str, list[str]] = {}
    for row in rows:
        if "error" in row:
            failed.setdefault(row["error"], []).append(row["run"])
    for error, runs in failed.items():
        print(one_line_of(f"failed: {', '.join(runs)}: {error}"))
    for wrote in (folder / "sweep.csv", folder / "sweep.png"):
        if wrote.is_file():
            print(one_line_of(relative(wrote)))
    return not any("error" in row for row in rows)


def _print_jobs(folder: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print the jobs that were measured, without what they have in common, and log them to TensorBoard."""
    from bertlens.report.figures import draw_sweep  # imports torch
    from bertlens.run.tensorboard import log_sweep_table

    measured = [name for name in (*SHOWN, "seconds") if name in columns]
    given = [name for name in columns if name not in ("run", "error", *measured)]
    varying = [name for name in given if len({row.get(name) for row in rows}) > 1]
    keys, others = varying or ["run"], [name for name in varying if name not in REPEATS]
    cells = _cells(rows, keys, measured)
    ranked, figure = [row for row in rows if RANKED_BY in row], None
    if ranked and len(others) in (1, 2):
        figure = draw_sweep(ranked, others, RANKED_BY)
        with atomic_write(folder / "sweep.png") as file:
            figure.savefig(file, format="png", dpi=120)
    log_sweep_table(folder, [*keys, *measured], cells, keys=varying, figure=figure)
    order = ", best validation accuracy first" if ranked else ""
    _print_table(f"{count_of(len(rows), 'run')}{order}", [*keys, *measured], cells)
    if repeats := [what for name, what in REPEATS.items() if name in varying]:
        title = f"mean and standard deviation over the {' and '.join(repeats)}"
        _print_table(title, [*others, *measured], _cells(rows, others, measured))


def _cells(rows: list[dict[str, Any]], keys: Sequence[str], measured: Sequence[str]) -> list[list[str]]:
    """Return a row of cells for each choice of the keys, best first; of several runs, mean and standard deviation."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row.get(name, "")) for name in keys), []).append(row)
    ranked = sorted(groups.items(), key=lambda group: -statistics.fmean(row.get(RANKED_BY, -1) for row in group[1]))
    return [
        [*chosen, *(_figure([row[name] for row in group if name in row], name) for name in measured)]
        for chosen, group in ranked
    ]


def _figure(values: list[float], name: str) -> str:
    shown = [statistics.fmean(values), statistics.stdev(values)] if len(values) > 1 else values
    return " ± ".join(f"{value:.{1 if name == 'seconds' else 4}f}" for value in shown)


def _print_table(title: str, columns: Sequence[str], cells: list[list[str]]) -> None:
    print(f"\n{title}:\n")
    table = Table(box=None, pad_edge=False)
    for name in columns:
        # over several lines: 80 columns are few
        table.add_column(Text(re.sub("[./]", r"\g<0>\n", one_line_of(name))), no_wrap=name in SHOWN)
    for row in cells:
        table.add_row(*map(terminal_text, row))
    Console().print(table)


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
            row["error"] = error_file.read_text(encoding="utf-8").strip("\n")
        elif "seconds" not in row:
            row["error"] = "did not finish"
        rows.append(row)
    return rows
