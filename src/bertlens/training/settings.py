"""The `optimizer`, `checkpoint` and `trainer` sections. The last one is whatever Lightning's Trainer takes."""

import ast
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertlens.system.settings import Affects, generated, setting


@dataclass(kw_only=True)
class OptimizerSettings:
    """Adam (Kingma & Ba 2015); with weight decay, AdamW (Loshchilov & Hutter 2019)."""

    lr: float = setting(5e-5, "Adam's learning rate; 5e-5 is the usual one", at_least=0, below=1, affects="steps")
    head_lr: float | None = setting(
        None, "the linear head's own learning rate; null: optimizer.lr", at_least=0, below=1, affects="steps"
    )
    weight_decay: float = setting(0.0, "decoupled weight decay (AdamW); 0 is Adam", at_least=0, affects="steps")
    schedule: str = setting(
        "constant",
        "constant, or falling until the last step: linear, or cosine (half a period)",
        choices=("constant", "linear", "cosine"),
        affects="steps",
    )
    end_factor: float = setting(
        0.0, "share of the learning rate that a falling schedule ends at", at_least=0, at_most=1, affects="steps"
    )
    warmup: float = setting(
        0.0, "share of all steps over which the learning rate rises from 0", at_least=0, below=1, affects="steps"
    )

    def conflicts(self, prefix: str = "optimizer.") -> Iterator[str]:
        if self.end_factor and self.schedule == "constant":
            yield f"{prefix}end_factor={self.end_factor}: needs a falling schedule, {prefix}schedule=linear or cosine"


@dataclass(kw_only=True)
class CheckpointSettings:
    path: str | None = setting(None, "go on from this checkpoint (checkpoint=PATH is short for it)")
    keep: str = setting(
        "auto",
        "which epoch's weights are tested and reported: best (by validation accuracy) or last; auto: best, if there "
        "are validation reviews",
        choices=("auto", "best", "last"),
    )
    every_n_steps: int | None = setting(
        None, "save last.ckpt also every so many steps; null: only after each epoch", at_least=1, affects="nothing"
    )
    whole_model: bool = setting(False, "save all parameters and the vocabulary, not only what was trained")


# Trainer's arguments that are sections of their own, or that this project sets
NOT_OFFERED = ("callbacks", "logger", "plugins", "use_distributed_sampler")
# Trainer's arguments that change no step; all others decide a run's steps
LIMITS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")
WITHOUT_STEPS = (
    *LIMITS, "fast_dev_run", "limit_test_batches", "limit_predict_batches", "num_sanity_val_steps",
    "log_every_n_steps", "enable_checkpointing", "barebones", "model_registry", "enable_autolog_hparams",
)  # fmt: skip
WITHOUT_EFFECT = (
    "enable_progress_bar", "enable_model_summary", "profiler", "detect_anomaly", "inference_mode",
    "default_root_dir",
)  # fmt: skip
# ranges that Lightning does not check, or checks with a traceback
RANGES: dict[str, dict[str, float]] = {
    "accumulate_grad_batches": {"at_least": 1},
    "gradient_clip_val": {"above": 0},
    "log_every_n_steps": {"at_least": 1},
    "num_nodes": {"at_least": 1},
}
MEANINGS = {
    "max_epochs": "epochs: how often each training review is seen",
    "devices": "how many devices, which (a list), or auto",
    "precision": "of the trained part: 32-true, bf16-mixed, 16-mixed",
    "limit_train_batches": "batches per epoch: 1 is one batch, 1.0 is all, 0.1 a tenth",
}
PLAIN_TYPES = {"int": int, "bool": bool, "str": str}


class _TrainerConflicts:
    """What Lightning would accept and then trip over."""

    def conflicts(self, prefix: str = "trainer.") -> Iterator[str]:
        for name in ("max_epochs", "max_steps"):
            limit = getattr(self, name)
            if limit is not None and limit < 1 and limit != -1:
                yield f"{prefix}{name}={limit}: at least 1, or -1 for no limit"
        devices: Any = getattr(self, "devices")  # noqa: B009  # the field is generated
        if not isinstance(devices, int) or isinstance(devices, bool):
            return
        if devices < 1 and devices != -1:
            yield f"{prefix}devices={devices}: at least 1, or auto"
        most = max(2, os.cpu_count() or 1)
        if devices > most and getattr(self, "accelerator") in ("auto", "cpu"):  # noqa: B009
            yield f"{prefix}devices={devices}: this machine has {os.cpu_count()} processors, so {most} at most"


def _trainer_settings() -> type:
    """Return the arguments of `pl.Trainer` as a settings class.

    They are read from Lightning's source, because importing Lightning takes seconds.
    """
    spec = importlib.util.find_spec("pytorch_lightning")  # of a top-level package: this imports nothing
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0], "trainer", "trainer.py").read_text(encoding="utf-8")
    trainer = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Trainer")
    init = next(n for n in trainer.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    fields = [
        (argument.arg, *_type_and_key(argument.arg, default, ast.unparse(argument.annotation)))
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
        if argument.arg not in NOT_OFFERED and argument.annotation is not None and default is not None
    ]
    return generated("TrainerSettings", fields, bases=(_TrainerConflicts,), module=__name__)


def _type_and_key(name: str, default: ast.expr, annotation: str) -> tuple[Any, Any]:
    """Return what OmegaConf checks, a plain type or `Any` where Lightning does it, and the key."""
    inner = annotation.removeprefix("Optional[").removesuffix("]") if annotation.startswith("Optional[") else annotation
    kind: Any = PLAIN_TYPES.get(inner, Any)
    if inner != annotation and kind is not Any:
        kind = kind | None
    affects: Affects = "nothing" if name in WITHOUT_EFFECT else "results" if name in WITHOUT_STEPS else "steps"
    meaning = MEANINGS.get(name, "passed to Lightning's Trainer" + (f": {annotation}" if kind is Any else ""))
    return kind, setting(ast.literal_eval(default), meaning, affects=affects, **RANGES.get(name, {}))


if TYPE_CHECKING:
    TrainerSettings = Any  # generated: mypy knows none of its fields
else:
    TrainerSettings = _trainer_settings()
