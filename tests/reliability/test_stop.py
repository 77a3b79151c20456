"""SIGTERM and Ctrl-C end a run well, and what it prints goes on with it; `kill -9` costs no more than unsaved steps."""

import json
import random
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch

from bertlens.features.shards import verify_blocks
from bertlens.model.checkpoint import read_raw

STEPS_BETWEEN_SAVES = 3
TRAINING = {"bertlens.training.module:ReviewModule.training_step": 0.005}
BUILDING = {"bertlens.features.store:FeatureStores._compute": 0.005}
PHASES = {
    "fitting": TRAINING,
    "validating": {"bertlens.training.module:ReviewModule.validation_step": 0.05},
    "building": BUILDING,
    "saving": {"bertlens.training.checkpoint_io:AtomicCheckpointIO.save_checkpoint": 0.02, "os:fsync": 0.02},
}
SMALL_BLOCKS = {"bertlens.features.shards.BLOCK_BYTES": 16384}


@pytest.fixture
def settings(tiny_run):
    """Some hundred steps in 3 epochs, saved often; a store of many blocks."""
    few = ["data.batch_size=4", "data.tokens_per_batch=256", "trainer.max_epochs=3", "print_every=1"]
    return [*tiny_run, *few, f"checkpoint.every_n_steps={STEPS_BETWEEN_SAVES}"]


@pytest.fixture
def reference(start, settings, tmp_path):
    """The same run, never stopped; leaves the store and the word pieces for those that are to train at once."""
    whole = start("train", *settings, "hydra.run.dir=whole", attributes=SMALL_BLOCKS)
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
            "train", *settings, *cold, f"hydra.run.dir=run-{index}", attributes=SMALL_BLOCKS, announced=PHASES[phase]
        )
        assert process.wait_for(marker, times=source.randint(1, 3 if phase == "validating" else 20))
        time.sleep(source.uniform(0, 0.03))
        process.send(number)
        assert process.wait() == status, process.output
        assert "Traceback" not in process.output
        rest = start("train", *resuming_arguments(process.output), attributes=SMALL_BLOCKS)
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


def blocks_kept(cache: Path) -> int:
    """Blocks of features on disk that are as recorded. Raises if a store that counts as whole is not."""
    kept = 0
    for manifest in (cache / "features").glob("*/manifest.json"):
        if ".partial-" not in manifest.parent.name:
            blocks = json.loads(manifest.read_text())["blocks"]
            assert len(verify_blocks(manifest.with_name("features.bin"), blocks)) == len(blocks)
            kept += len(blocks)
    for progress in (cache / "features").glob("*.partial-*/progress.json"):
        blocks = json.loads(progress.read_text())
        assert len(verify_blocks(progress.with_name("features.bin"), blocks)) == len(blocks)
        kept += len(blocks)
    return kept


def test_killed_while_building(start, settings, reference, tmp_path, amount, record):
    source = random.Random(2)
    kills, finished, lost = amount(3, 150), 0, 0
    killed = kept = 0
    while killed < kills:
        cache, folder = tmp_path / f"cache-{finished}", tmp_path / f"run-{finished}"
        run = ["train", *settings, f"cache_dir={cache}", f"hydra.run.dir={folder}"]
        process = start(*run, attributes=SMALL_BLOCKS, announced=BUILDING)
        if process.wait_for("@ _compute", times=source.randint(1, 25)):
            time.sleep(source.uniform(0, 0.02))
        process.kill()
        if process.wait() == 0:
            assert differences(result(folder), reference) == 0
            finished += 1
            kept = 0
            continue
        killed += 1
        kept, before = blocks_kept(cache), kept
        lost += max(0, before - kept)
    process = start(*run, attributes=SMALL_BLOCKS)
    assert process.wait() == 0, process.output
    assert differences(result(folder), reference) == 0
    assert lost == 0
    record(
        "kill -9 while building the store, begun again until done",
        kills=kills, runs=finished + 1, corrupt_files=0, blocks_lost_beyond_the_last_save=lost, different_bits=0,
    )  # fmt: skip
