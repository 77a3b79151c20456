"""A run's folder: what was measured, how long each stage took, and what produced it."""

import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bertlens.config import WITHOUT_EFFECT
from bertlens.system.files import atomic_write

PACKAGES = ("bertlens", "torch", "pytorch-lightning", "torchmetrics", "tokenizers", "datasets", "hydra-core", "numpy")


class Stages:
    """Seconds and reviews by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reviews: dict[str, int] = {}

    @contextmanager
    def __call__(self, name: str, *, num_reviews: int | None = None) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        if num_reviews is not None:
            self.reviews[name] = num_reviews

    def reviews_per_second(self) -> dict[str, float]:
        return {name: round(count / max(self.seconds[name], 1e-9), 1) for name, count in self.reviews.items()}


def environment() -> dict[str, Any]:
    """Versions, commit and machine, as far as they can be told."""
    return {
        "versions": {name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "commit": _commit(),
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "processor": _processor(),
            "threads": torch.get_num_threads(),
        },
    }


def _commit() -> str | None:
    source = Path(__file__).resolve().parent
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None  # installed without its repository


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        # as ASCII: a path may hold half a character, which has no UTF-8, or one that a terminal acts on
        json.dump(content, file, indent=2)
        file.write("\n")


def write_metrics(
    folder: Path, metrics: Mapping[str, Any], stages: Stages, *, seed: int | None = None, **more: Any
) -> dict[str, Any]:
    """`metrics.json`: metrics under their logged names, seconds and speed by stage, and what produced them."""
    content = {
        "metrics": {name: float(value) for name, value in metrics.items()},
        "seconds": stages.seconds,
        "reviews_per_second": stages.reviews_per_second(),
        "seed": seed,
        **more,
        **environment(),
    }
    write_json(folder / "metrics.json", content)
    return content


def is_finished(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run with these settings has written its metrics into this folder."""
    try:
        written = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    decided = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
    return bool({name: written.get(name) for name in decided} == json.loads(json.dumps(decided)))


def write_predictions(
    path: Path, texts: Sequence[str], labels: Tensor, probabilities: Tensor, label_names: Sequence[str]
) -> None:
    """`predictions.parquet`: a row a review, in the split's order, with the probability of every class."""
    verdicts = probabilities.argmax(dim=1)
    columns: dict[str, Any] = {
        "review": pa.array(range(len(labels)), pa.int64()),
        "text": pa.array(texts, pa.string()),
        "label": [label_names[index] for index in labels.tolist()],
        "verdict": [label_names[index] for index in verdicts.tolist()],
        "correct": (verdicts == labels).tolist(),
    }
    for index, name in enumerate(label_names):
        columns[f"probability of {name}"] = probabilities[:, index].double().numpy()
    with atomic_write(path) as file:
        pq.write_table(pa.table(columns), file)


def write_figures(folder: Path, drawn: Mapping[str, Figure]) -> None:
    """Each figure as `<name>.png`."""
    for name, figure in drawn.items():
        with atomic_write(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=120)


def relative(path: Path) -> str:
    """A path as one would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
