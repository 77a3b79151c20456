"""Settings in pairs: most faults show only when two settings that work alone are used together.

A covering array (`allpairspy`) contains every pair of values at least once. Each of its combinations trains, is
measured by evaluate.py, is stopped and resumed, and is explained. The pairs that are refused stand in `REFUSED`.
"""

import json
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from allpairspy import AllPairs

from bertlens.model.checkpoint import read_raw

# a setting: its values, each as it is typed. In this order allpairspy finds every pair that is not refused
FACTORS = {
    "precision": [
        f"trainer.precision={name}" for name in ("32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true")
    ],
    "processes": ["trainer.devices=1", "trainer.devices=2 trainer.strategy=ddp"],
    "clipping": ["trainer.gradient_clip_val=null", "trainer.gradient_clip_val=0.5"],
    "averaging": ["callbacks=default", "callbacks=ema", "callbacks=swa"],
    "padding": ["data.padding=longest", "data.padding=max_length"],
    "saved": ["checkpoint.whole_model=false", "checkpoint.whole_model=true"],
    "truncation": [f"data.truncation={name}" for name in ("head", "tail", "head_tail")],
    "layers": [f"model.trainable_layers={layers}" for layers in (0, 1, 2, "all")],
    "cache": ["features.cache=auto", "features.cache=on", "features.cache=off"],
    "accumulation": ["trainer.accumulate_grad_batches=1", "trainer.accumulate_grad_batches=2"],
    "cleaning": ["data.cleaning=notebook", "data.cleaning=none"],
    "mask": ["model.attention_mask=true", "model.attention_mask=false"],
    "limit": ["trainer.max_steps=-1", "trainer.max_steps=3"],
    "schedule": ["optimizer.schedule=constant", "optimizer.schedule=linear"],
}
# values and pairs that are refused, and what the line says
REFUSED = {
    ("model.trainable_layers=all", "features.cache=on"): "features.cache=on: needs frozen layers without dropout, "
    "which compute the same in each epoch; set features.cache=auto",
    ("data.padding=longest", "model.attention_mask=false"): "model.attention_mask=false: needs "
    "data.padding=max_length; otherwise a prediction depends on the longest review of its batch",
}


def is_tried(values: Sequence[str]) -> bool:
    """Return whether no pair of the values, which may be the first ones of a combination, is refused."""
    return not any(set(refused) <= set(values) for refused in REFUSED)


EVERY_PAIR = {pair for one, other in combinations(FACTORS.values(), 2) for pair in product(one, other)}
COMBINATIONS = [tuple(combination) for combination in AllPairs(list(FACTORS.values()), filter_func=is_tried)]


def test_every_pair_is_in_a_combination_or_refused():
    tried = {pair for combination in COMBINATIONS for pair in combinations(combination, 2)}
    assert tried | {refused for refused in REFUSED if len(refused) == 2} == EVERY_PAIR
    assert not tried & set(REFUSED)
    print(f"{len(COMBINATIONS)} combinations, {len(tried)} pairs, {len(REFUSED)} refusals")


@pytest.fixture
def settings(tiny_run: list[str]) -> list[str]:
    """Reviews longer than `max_length`, and several batches per epoch, not the same number on two processes."""
    return [*tiny_run, "data.max_length=24", "data.tokens_per_batch=256", "logger=csv"]


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "message"), REFUSED.items(), ids=map(" ".join, REFUSED))
def test_a_refused_pair_is_one_line(start, settings, tmp_path, pair, message):
    process = start("train", *settings, *" ".join(pair).split(), "hydra.run.dir=run")
    assert process.wait() == 1
    assert "Traceback" not in process.output
    (line,) = (line for line in process.output.splitlines() if line.startswith("error: "))
    assert line.endswith(message)


@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS, ids=range(len(COMBINATIONS)))
def test_a_combination_trains_evaluates_resumes_and_explains(start, settings, tmp_path, combination):
    settings = [*settings, *" ".join(combination).split()]
    run = finish(start("train", *settings, "hydra.run.dir=run"), tmp_path / "run")

    evaluated = finish(
        start("evaluate", "checkpoint=run", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu",
              "hydra.run.dir=evaluated"),
        tmp_path / "evaluated",
    )  # fmt: skip
    assert evaluated["test/accuracy"] == run["test/accuracy"]
    assert evaluated["test/loss"] == pytest.approx(run["test/loss"], rel=1e-6)

    stop = f"+callbacks.stop={{_target_: stop_once.StopOnce, step: 2, marker: '{tmp_path / 'stopped'}'}}"
    assert start("train", *settings, stop, "hydra.run.dir=resumed").wait() == 143
    assert read_raw(tmp_path / "resumed" / "checkpoints" / "last.ckpt")["global_step"] == 2
    resumed = finish(start("train", "resume=resumed"), tmp_path / "resumed")
    # Lightning reads a checkpoint before it converts the module: 64-bit weights pass through 32 bits
    tolerance = 1e-6 if "trainer.precision=64-true" in combination else 0.0
    assert resumed == pytest.approx(run, rel=tolerance, abs=0)
    assert differences(tmp_path / "run", tmp_path / "resumed", tolerance) == []

    explained = start(
        "visualize", "checkpoint=run", f"cache_dir={tmp_path / 'cache'}", "trainer.accelerator=cpu", "count=4",
        "hydra.run.dir=explained",
    )  # fmt: skip
    assert explained.wait() == 0, explained.output
    assert (tmp_path / "explained" / "report.html").stat().st_size > 10_000


def finish(process: Any, folder: Path) -> dict[str, float]:
    """Wait for the end of a run and return its metrics."""
    assert process.wait(timeout=240) == 0, process.output
    assert "Traceback" not in process.output
    metrics: dict[str, float] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return metrics


def differences(one: Path, other: Path, tolerance: float) -> list[str]:
    """Return the names of the tensors that differ by more than the tolerance in two runs' last checkpoints."""
    first, second = (tensors_of(read_raw(folder / "checkpoints" / "last.ckpt")) for folder in (one, other))
    assert first.keys() == second.keys()
    return [name for name in first if not torch.allclose(first[name], second[name], rtol=0, atol=tolerance)]


def tensors_of(content: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Return every tensor in a checkpoint by its path: weights, averages, optimizer moments, random numbers.

    The state of the callbacks that keep checkpoints is left out: it contains the paths of the run.
    """
    if isinstance(content, torch.Tensor):
        return {name: content}
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found: dict[str, torch.Tensor] = {}
    for key, value in items:
        if "Checkpoint{" not in str(key):
            found |= tensors_of(value, f"{name}/{key}")
    return found
