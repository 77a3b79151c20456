"""The optimizer's parameter groups and the schedules of the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from bertlens.model.classifier import ReviewClassifier, TrainedSuffix
from bertlens.training.settings import OptimizerSettings

# share of the steps after warm-up that remain -> factor of the learning rate
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda remaining: 1.0,
    "linear": lambda remaining: remaining,
    "cosine": lambda remaining: (1 - math.cos(math.pi * remaining)) / 2,  # Loshchilov & Hutter 2017, one period
}


def build_optimizer(
    model: ReviewClassifier | TrainedSuffix, settings: OptimizerSettings, *, fused: bool = True
) -> torch.optim.Optimizer:
    """Return AdamW with one group for the trained part of the encoder and one for the head.

    `fused`: update each parameter in one operation. Lightning cannot clip its gradients under mixed precision.
    """
    head_lr = settings.lr if settings.head_lr is None else settings.head_lr
    encoder = [parameter for parameter in model.bert.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": encoder, "lr": settings.lr, "name": "encoder"}] if encoder else []
    groups.append({"params": list(model.head.parameters()), "lr": head_lr, "name": "head"})
    eps = max(1e-8, torch.finfo(model.head.weight.dtype).tiny)  # torch's own is 0 in half precision
    return torch.optim.AdamW(groups, eps=eps, weight_decay=settings.weight_decay, fused=fused or None)


def build_schedule(optimizer: torch.optim.Optimizer, settings: OptimizerSettings, *, num_steps: int) -> LambdaLR:
    """Return linear warm-up, followed by the chosen schedule until `num_steps`."""
    warmup_steps = round(settings.warmup * num_steps)
    schedule, end = SCHEDULES[settings.schedule], settings.end_factor

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return end + (1 - end) * schedule(max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)
