"""SIGTERM and Ctrl-C end a run well, and what it prints goes on with it; `kill -9` costs no more than unsaved steps."""

import json
import random
import re
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertlens.features import shards
from bertlens.model.checkpoint import read_raw

STEPS_BETWEEN_SAVES = 3
TRAINING = {"bertlens.training.module:ReviewModule.training_step": 0.005}
BUILDING = {"bertlens.features.store:compute": 0.005}
PHASES = {
    "fitting": TRAINING,
    "validating": {"bertlens.training.module:ReviewModule.validation_step": 0.05},
    "building": BUILDING,
    "saving": {"bertlens.training.checkpoint_io:AtomicCheckpointIO.save_checkpoint": 0.02, "os:fsync": 0.02},
}
SMALL_SHARDS = {"bertlens.features.store.SHARD_BYTES": 16384}


@pytest.fixture
def settings(tiny_run):
    """Some hundred steps in 3 epochs, saved often; a store of many shards."""
    few = ["data.batch_size=4", "data.tokens_per_batch=256", "trainer.max_epochs=3", "print_every=1"]
    return [*tiny_run, *few, f"checkpoint.every_n_steps={STEPS_BETWEEN_SAVES}"]


@pytest.fixture
def reference(start, settings, tmp_path):
    """The same run, never stopped; leaves the store and the word pieces for those that are to train at once."""
    whole = start("train", *settings, "hydra.run.dir=whole", attributes=SMALL_SHARDS)
    assert whole.wait() == 0, whole.output
    return result(tmp_path / "whole")


def result(folder: Path) -> tuple[dict[str, float], list[dict[str, torch.Tensor]]]:
    weights = [read_raw(folder / "checkpoints" / name)["state_dict"] for name in ("last.ckpt", "best.ckpt")]
    return json.loads((folder / "metrics.json").read_text())["metrics"], weights


def differences(one, other) -> int:
    """How many metrics and parameters of two results are not equal to the last bit."""
    metrics = sum(one[0][name] != other[0][name] for name in one[0].keys() | other[0].keys())
    return metrics + sum(
        not torch.equal(a[name], b[name]) for a, b in zip(one[1], other[1], strict=True) for name in a.keys() | b.keys()
    )


def resuming_arguments(output: str) -> list[str]:
    command = next(line for line in output.splitlines() if re.match(r"python \S*train\.py ", line))
    return shlex.split(command)[2:]


@pytest.mark.parametrize(
    "phase", ["fitting", *(pytest.param(phase, marks=pytest.mark.slow) for phase in PHASES if phase != "fitting")]
)
def test_a_signal_ends_a_run_well(start, settings, reference, tmp_path, amount, record, phase):
    source = random.Random(phase)
    tries = amount(2, 20)
    interrupts = range(tries)[-1::-4]  # every fourth is a Ctrl-C
    marker = "@ " + list(PHASES[phase])[-1].rsplit(".")[-1].rsplit(":")[-1]
    for index in range(tries):
        # building needs a cold cache, the others the one that the reference left
        cold = [f"cache_dir={tmp_path / f'cache-{index}'}"] if phase == "building" else []
        number, status = (signal.SIGINT, 130) if index in interrupts else (signal.SIGTERM, 143)
        process = start(
            "train", *settings, *cold, f"hydra.run.dir=run-{index}", attributes=SMALL_SHARDS, announced=PHASES[phase]
        )
        assert process.wait_for(marker, times=source.randint(1, 3 if phase == "validating" else 20))
        time.sleep(source.uniform(0, 0.03))
        process.send(number)
        assert process.wait() == status, process.output
        assert "Traceback" not in process.output
        rest = start("train", *resuming_arguments(process.output), attributes=SMALL_SHARDS)
        assert rest.wait() == 0, rest.output
        assert differences(result(tmp_path / f"run-{index}"), reference) == 0
    record(
        f"SIGTERM or Ctrl-C while {phase}, then resumed",
        sigterm=tries - len(interrupts), interrupts=len(interrupts), resumed=tries, different_bits=0,
    )  # fmt: skip


def step_of(checkpoint: Path) -> int:
    return int(read_raw(checkpoint)["global_step"]) if checkpoint.is_file() else 0


def test_killed_while_training(start, settings, reference, tmp_path, amount, record):
    source = random.Random(1)
    kills, finished, lost, corrupt = amount(3, 150), 0, 0, 0
    killed = 0
    while killed < kills:
        folder = tmp_path / f"run-{finished}"
        last = folder / "checkpoints" / "last.ckpt"
        run = ["train", *settings, f"hydra.run.dir={folder}"]
        process = start(*run, announced=TRAINING)
        if process.wait_for("@ training_step", times=source.randint(1, 40)):
            time.sleep(source.uniform(0, 0.02))
        process.kill()
        if process.wait() == 0:  # nothing left to kill: the whole chain of kills gave what one run gives
            assert differences(result(folder), reference) == 0
            finished += 1
            continue
        killed += 1
        corrupt += sum(is_damaged(path) for path in folder.rglob("*") if path.is_file())
        steps = [int(step) for step in re.findall(r"^iteration (\d+) ", process.output, re.MULTILINE)]
        due = (steps[-1] - 1) // STEPS_BETWEEN_SAVES * STEPS_BETWEEN_SAVES if steps else 0
        lost += max(0, due - step_of(last))
    process = start(*run)
    assert process.wait() == 0, process.output
    assert differences(result(folder), reference) == 0
    assert (corrupt, lost) == (0, 0)
    record(
        "kill -9 while training, resumed until done, weights then as if never killed",
        kills=kills, runs=finished + 1, corrupt_files=corrupt, steps_lost_beyond_the_last_save=lost, different_bits=0,
    )  # fmt: skip


def is_damaged(path: Path) -> bool:
    """Whether a file under its final name is anything but whole."""
    if path.name.startswith("."):
        return False  # what a killed writer left beside; never read
    try:
        if path.suffix == ".ckpt":
            read_raw(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
    except (ValueError, OSError):
        return True
    return False


def reviews_kept(cache: Path) -> int:
    """Return how many reviews are stored. Raise if a shard is not whole."""
    kept = 0
    for description in (cache / "features").glob("*/space.json"):
        for path in description.parent.glob(f"*{shards.SUFFIX}"):
            index = shards.read_index(path)
            states = load_file(path)["states"].view(torch.uint8).numpy()
            each = np.split(states, index.starts[1:-1])
            assert [*map(shards.checksum, index.reviews, each)] == index.checksums.tolist()
            kept += len(index.reviews)
    return kept


def test_killed_while_building(start, settings, reference, tmp_path, amount, record):
    source = random.Random(2)
    kills, finished, lost = amount(3, 150), 0, 0
    killed = kept = 0
    while killed < kills:
        cache, folder = tmp_path / f"cache-{finished}", tmp_path / f"run-{finished}"
        run = ["train", *settings, f"cache_dir={cache}", f"hydra.run.dir={folder}"]
        process = start(*run, attributes=SMALL_SHARDS, announced=BUILDING)
        if process.wait_for("@ compute", times=source.randint(1, 25)):
            time.sleep(source.uniform(0, 0.02))
        process.kill()
        if process.wait() == 0:
            assert differences(result(folder), reference) == 0
            finished += 1
            kept = 0
            continue
        killed += 1
        kept, before = reviews_kept(cache), kept
        lost += max(0, before - kept)
    process = start(*run, attributes=SMALL_SHARDS)
    assert process.wait() == 0, process.output
    assert differences(result(folder), reference) == 0
    assert lost == 0
    record(
        "kill -9 while building the store, begun again until done",
        kills=kills, runs=finished + 1, corrupt_files=0, reviews_lost_beyond_the_last_save=lost, different_bits=0,
    )  # fmt: skip
