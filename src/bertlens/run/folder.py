"""A run's folder: who may write into it, what was measured, how long each stage took, and what produced it.

torch, pyarrow and matplotlib are imported where they are used: every entry point imports this before it knows its task.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from omegaconf import OmegaConf

from bertlens.config import TrainConfig
from bertlens.errors import InputError
from bertlens.system import stopping
from bertlens.system.escape import one_line_of
from bertlens.system.files import atomic_write, relative
from bertlens.system.settings import keys, values
from bertlens.system.stopping import is_main_process
from bertlens.system.wording import PROBABILITY

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

PACKAGES = ("bertlens", "torch", "pytorch-lightning", "torchmetrics", "tokenizers", "datasets", "hydra-core", "numpy")
HYDRA_FOLDER = ".hydra"
ERROR_SUFFIX = ".error.txt"
OUTPUTS = Path("outputs")
LATEST = "latest"  # in OUTPUTS: a link to the newest training run there


@dataclass
class Stage:
    """One part of a run: its seconds, and how many reviews went through it."""

    seconds: float = 0.0
    num_reviews: int | None = None


@dataclass
class Run:
    """A run, its folder and what was typed for it. Nothing in the folder changes before `begin`."""

    folder: Path
    overrides: list[str] = field(default_factory=list)  # typed for this run, and in a sweep what varies
    in_sweep: bool = False
    number: int = 0  # of a job in its sweep
    stages: dict[str, Stage] = field(default_factory=dict)
    hydra: Any = None  # Hydra's own part of the configuration
    has_begun: bool = False

    @classmethod
    def of_hydra(cls) -> "Run":
        """Return the run that Hydra has just composed."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra = HydraConfig.get()
        overrides = [str(item) for item in cast(list[Any], OmegaConf.to_container(hydra.overrides.task, resolve=False))]
        in_sweep = hydra.mode == RunMode.MULTIRUN
        number = hydra.job.num if in_sweep else 0
        return cls(Path(hydra.runtime.output_dir), overrides, in_sweep=in_sweep, number=number, hydra=hydra)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a part of the run; a request to stop ends the run when the part is done."""
        stopping.check()
        start, stage = time.perf_counter(), Stage()
        yield stage
        stage.seconds = round(time.perf_counter() - start, 3)
        self.stages[name] = stage
        stopping.check()

    def is_finished(self, config: Any) -> bool:
        """Return whether a run with these settings has written its metrics into the folder."""
        try:
            written = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))["settings"]
            earlier = {name: written.get(name) for name in settings_that_matter(config)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        now = settings_that_matter(config)
        return json.dumps(earlier, sort_keys=True) == json.dumps(now, sort_keys=True)  # tells 1 from 1.0

    def keep(self) -> dict[str, Any]:
        """Leave a finished run as it is and return its metrics."""
        print(f"{relative(self.folder)} is finished and left as it is")
        metrics: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
        return metrics

    def begin(self, config: Any, *, resumed: Path | None = None) -> None:
        """Take the folder for this run, which may go on from a checkpoint, and write its configuration there.

        Raise `InputError` if the folder holds another run that is neither resumed nor to be replaced.
        """
        self.has_begun = True
        if not is_main_process():
            return
        goes_on = resumed is not None and resumed.resolve().parent == self.checkpoints.resolve()
        if self._holds_a_run() and not goes_on:
            if not config.overwrite:
                folder, key = relative(self.folder), "hydra.sweep.dir" if self.in_sweep else "hydra.run.dir"
                kind = "a finished run" if (self.folder / "metrics.json").is_file() else "another run"
                raise InputError(
                    f"{folder} holds {kind}: go on with it (resume={folder}), give another folder ({key}=...), or "
                    "replace it (overwrite=true)"
                )
            self._remove_run()
        (self.folder / "metrics.json").unlink(missing_ok=True)
        self.error_file.unlink(missing_ok=True)
        saved: dict[str, Any] = {"config": OmegaConf.structured(config), "overrides": OmegaConf.create(self.overrides)}
        if self.hydra is not None:
            saved["hydra"] = OmegaConf.create({"hydra": self.hydra})
        for name, content in saved.items():
            with atomic_write(self.folder / HYDRA_FOLDER / f"{name}.yaml", "w") as file:
                file.write(OmegaConf.to_yaml(content))
        if isinstance(config, TrainConfig) and self.folder.absolute().is_relative_to(OUTPUTS.absolute()):
            self._become_latest()

    def _become_latest(self) -> None:
        """Point `outputs/latest` to this run, where the file system has links."""
        link = OUTPUTS / f".{LATEST}.{os.getpid()}"
        with suppress(OSError):
            link.symlink_to(os.path.relpath(self.folder, OUTPUTS), target_is_directory=True)
            link.replace(OUTPUTS / LATEST)
        link.unlink(missing_ok=True)

    def _holds_a_run(self) -> bool:
        return any((self.folder / name).exists() for name in ("checkpoints", "metrics.json", "report.html"))

    def _remove_run(self) -> None:
        for name in ("checkpoints", "csv", "tensorboard", HYDRA_FOLDER):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for pattern in ("metrics.json", "*.html", "predictions.parquet", "*.png", "events.out.tfevents.*"):
            for file in self.folder.glob(pattern):
                file.unlink()

    @property
    def error_file(self) -> Path:
        """Why the run failed, beside its folder, which holds an earlier run's results perhaps."""
        return self.folder.with_name(self.folder.name + ERROR_SUFFIX)

    def write_error(self, line: str) -> None:
        """Write why a job of a sweep failed, for the table at the sweep's end."""
        with atomic_write(self.error_file, "w") as file:
            file.write(line + "\n")

    def write_metrics(self, metrics: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Write `metrics.json`: metrics by their logged names, seconds and speed by stage, and what produced them."""
        content = {
            "metrics": {name: float(value) for name, value in metrics.items()},
            "seconds": {name: stage.seconds for name, stage in self.stages.items()},
            "reviews_per_second": {
                name: round(stage.num_reviews / max(stage.seconds, 1e-9), 1)
                for name, stage in self.stages.items()
                if stage.num_reviews is not None
            },
            **more,
            **environment(),
        }
        write_json(self.folder / "metrics.json", content)
        return content

    def write_figures(self, drawn: Mapping[str, "Figure"]) -> None:
        """Write each figure as `<name>.png`."""
        for name, figure in drawn.items():
            with atomic_write(self.folder / f"{name}.png") as file:
                figure.savefig(file, format="png", dpi=120)


def settings_that_matter(config: Any) -> dict[str, Any]:
    """Return the settings that change what a run leaves behind, by key."""
    known = keys(type(config))
    return {name: value for name, value in values(config).items() if known[name].affects != "nothing"}


def settings_of_the_steps(config: Any) -> dict[str, Any]:
    """Return the settings that decide a run's steps, by key: those that a resumed run must keep."""
    known = keys(type(config))
    return {name: value for name, value in values(config).items() if known[name].affects == "steps"}


def started_as(name: str) -> list[str]:
    """Return how to start an entry point in the way this one was: by the console command, or as a script."""
    if any(Path(part).stem == "bertlens" for part in sys.orig_argv[:2]):
        return ["bertlens", name]
    return ["python", relative(Path(sys.argv[0]).absolute().with_name(f"{name}.py"))]


def environment() -> dict[str, Any]:
    """Return versions, commit and machine, as far as they can be told."""
    import torch

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
    """Return this project's commit; None if it was installed without its repository."""
    repository = Path(__file__).resolve().parents[3]
    if not (repository / ".git").exists() or not (repository / "src" / "bertlens").is_dir():
        return None
    command = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path, "w") as file:
        # as ASCII: a path may hold half a surrogate pair, which has no UTF-8, or a character that a terminal acts on
        json.dump(content, file, indent=2)
        file.write("\n")


def write_predictions(
    path: Path, texts: Sequence[str], labels: "Tensor", probabilities: "Tensor", label_names: Sequence[str]
) -> None:
    """Write `predictions.parquet`: one row per review, in the split's order, with the probability of each class."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    predictions = probabilities.argmax(dim=1)
    columns: dict[str, Any] = {
        "review": pa.array(range(len(labels)), pa.int64()),
        "text": pa.array(texts, pa.string()),
        "label": [label_names[index] for index in labels.tolist()],
        "verdict": [label_names[index] for index in predictions.tolist()],
        "correct": (predictions == labels).tolist(),
    }
    for index, name in enumerate(label_names):
        columns[PROBABILITY + name] = probabilities[:, index].double().numpy()
    with atomic_write(path) as file:
        pq.write_table(pa.table(columns), file)


def read_predictions(path: Path, texts: Sequence[str], label_names: Sequence[str]) -> "Tensor":
    """Return the probabilities [R, C] in a `predictions.parquet`. Raise `InputError` if it is not of these reviews."""
    import pyarrow.parquet as pq
    import torch

    names = [PROBABILITY + name for name in label_names]
    try:
        table = pq.read_table(path, columns=["text", *names])
        probabilities = torch.tensor([table[name].to_pylist() for name in names]).T
    except FileNotFoundError as error:  # pyarrow's own message is the path alone
        raise InputError(f"against={path}: no such file") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        cause = one_line_of(str(error))[:200]
        raise InputError(f"against={path}: no predictions.parquet of {', '.join(label_names)} ({cause})") from error
    if table["text"].to_pylist() != list(texts):
        raise InputError(f"against={path}: predictions of other reviews; evaluate both on the same ones")
    return probabilities
