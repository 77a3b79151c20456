"""Which parameters learn how fast: parameter groups and schedules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from bertlens.errors import InputError
from bertlens.model.classifier import ReviewClassifier

SCHEDULES = ("constant", "linear")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Adam (Kingma & Ba 2015); with weight decay, AdamW (Loshchilov & Hutter 2019)."""

    lr: float = 5e-5
    head_lr: float | None = None  # None: as lr
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0  # share of all steps over which the learning rate rises from 0

    def __post_init__(self) -> None:
        for key in ("lr", "head_lr"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise InputError(f"optimizer.{key}={value}: a learning rate lies in [0, 1); 5e-5 is the usual one")
        if not self.weight_decay >= 0:  # so that NaN is refused as well
            raise InputError(f"optimizer.weight_decay={self.weight_decay}: must not be negative")
        if self.schedule not in SCHEDULES:
            raise InputError(f"optimizer.schedule={self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        if not 0 <= self.warmup < 1:
            raise InputError(f"optimizer.warmup={self.warmup}: a share of all steps, in [0, 1)")


def build_optimizer(classifier: ReviewClassifier, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """One group for the trained part of the encoder, one for the head."""
    head_lr = settings.lr if settings.head_lr is None else settings.head_lr
    encoder = [parameter for parameter in classifier.bert.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": encoder, "lr": settings.lr, "name": "encoder"}] if encoder else []
    groups.append({"params": list(classifier.head.parameters()), "lr": head_lr, "name": "head"})
    # without decay the two are the same; fused: one pass over the parameters instead of one per operation
    return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, *, num_steps: int) -> LambdaLR:
    """Warm-up, then constant or linearly down to 0 at `num_steps`."""
    warmup_steps = round(settings.warmup * num_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        if settings.schedule == "constant":
            return 1.0
        return max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))

    return LambdaLR(optimizer, factor)
