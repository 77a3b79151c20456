"""A run that was stopped goes on exactly: its end is bit for bit that of the run that was never stopped."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertlens.errors import InputError
from bertlens.model.checkpoint import read_raw
from bertlens.system import stopping
from bertlens.training import callbacks
from bertlens.training.callbacks import LastCheckpoint
from bertlens.training.module import ReviewModule, TrainingDiverged


@pytest.fixture
def run(run_task):
    return lambda folder, *overrides: run_task("train", folder, *overrides)


@pytest.fixture
def settings(tiny_run):
    """2 epochs, shuffled, with dropout, a schedule and two learning rates."""
    schedule = ["optimizer.schedule=linear", "optimizer.warmup=0.3", "optimizer.head_lr=1e-2"]
    return [*tiny_run, *schedule, "trainer.max_epochs=2"]


class Stop:
    """Asks a run to stop at its n-th chance: after every step, within every validation, after every epoch."""

    def __init__(self, chance: int) -> None:
        self.chance = chance
        self.chances = 0

    def __call__(self, trainer) -> bool:
        self.chances += 1
        return self.chances == self.chance


def parts(folder, name):
    """What of a checkpoint must be equal: weights, the optimizer's moments, the schedule, the random numbers."""
    raw = read_raw(folder / "checkpoints" / name)
    tensors = dict(raw["state_dict"])
    tensors["random numbers"] = raw["random_state"][0]["cpu"]
    for number, state in raw["optimizer_states"][0]["state"].items():
        tensors |= {f"{number} {kind}": value for kind, value in state.items()}
    tensors["step"] = torch.tensor(raw["global_step"])
    tensors["learning rate"] = torch.tensor(raw["lr_schedulers"][0]["_last_lr"])
    return tensors


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def figures(folder):
    """The metrics of a run, and what TensorBoard was told of each epoch."""
    found = dict(json.loads((folder / "metrics.json").read_text())["metrics"])
    for path in folder.glob("events*"):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(("train/", "val/")) and tag != "train/loss_step":
                found |= {f"{tag} at step {event.step}": event.value for event in events.Scalars(tag)}
    return found


@pytest.mark.parametrize("accumulated", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_stopped_anywhere_and_resumed(settings, tmp_path, monkeypatch, amount, record, accumulated, run):
    settings = [*settings, f"data.batch_size={amount(32, 8)}", f"trainer.accumulate_grad_batches={accumulated}"]
    never = Stop(0)
    monkeypatch.setattr(callbacks, "stop_requested", never)
    run(tmp_path / "whole", *settings)
    whole = {name: parts(tmp_path / "whole", name) for name in ("last.ckpt", "best.ckpt")}
    expected = figures(tmp_path / "whole")
    assert {"train/accuracy", "val/loss"} <= {name.split(" at ")[0] for name in expected}
    stops = never.chances
    for chance in range(1, stops + 1):
        folder = tmp_path / str(chance)
        monkeypatch.setattr(callbacks, "stop_requested", Stop(chance))
        with pytest.raises(stopping.Stopped):
            run(folder, *settings)
        monkeypatch.setattr(callbacks, "stop_requested", never)
        run(folder, *settings)
        for name, tensors in whole.items():
            assert differing(tensors, parts(folder, name)) == [], f"{name}, stopped at chance {chance}"
        assert figures(folder) == expected, f"stopped at chance {chance}"
    steps = int(whole["last.ckpt"]["step"])
    record(
        "stopped and resumed at every step, in every validation and after every epoch of a 2-epoch run"
        + (f", {accumulated} batches a step" if accumulated > 1 else ""),
        stops=stops,
        steps=steps,
        different_bits=0,
    )


@pytest.mark.parametrize("how", ["in a new folder", "in its folder, renamed", "without the earlier best.ckpt"])
def test_moved_and_resumed(settings, tmp_path, how, run):
    settings = [*settings, "optimizer.schedule=constant", "optimizer.warmup=0", "optimizer.lr=0.2"]
    run(tmp_path / "whole", *settings, "trainer.max_epochs=3")
    run(tmp_path / "half", *settings, "trainer.max_epochs=2")
    last = tmp_path / "half" / "checkpoints" / "last.ckpt"
    if how == "in its folder, renamed":
        (tmp_path / "half").rename(tmp_path / "rest")
        run(tmp_path / "rest", *settings, "trainer.max_epochs=3", f"resume={tmp_path / 'rest'}")
    else:
        if how == "without the earlier best.ckpt":
            last.with_name("best.ckpt").unlink()
        run(tmp_path / "rest", *settings, "trainer.max_epochs=3", f"checkpoint.path={last}")
    assert differing(parts(tmp_path / "whole", "last.ckpt"), parts(tmp_path / "rest", "last.ckpt")) == []
    if how != "without the earlier best.ckpt":  # else the best of the epochs since
        assert differing(parts(tmp_path / "whole", "best.ckpt"), parts(tmp_path / "rest", "best.ckpt")) == []


@pytest.fixture
def unfinished(settings, tmp_path, run):
    """The folder of a run that was stopped after its last step."""
    run(tmp_path / "run", *settings, "trainer.max_epochs=1", "test=false")
    (tmp_path / "run" / "metrics.json").unlink()
    return tmp_path / "run"


def test_an_unfinished_run_goes_on_by_itself_and_says_so(unfinished, settings, capsys, run):
    run(unfinished, *settings, "test=false")
    assert capsys.readouterr().out.count(f"resumed   the run in {unfinished}, from its last.ckpt\n") == 1
    assert [row["epoch"] for row in json.loads((unfinished / "metrics.json").read_text())["history"]] == [1, 2]


@pytest.mark.parametrize("choice", ["overwrite=true", "resume=null"])
def test_an_unfinished_run_is_begun_afresh_only_if_asked(unfinished, settings, capsys, run, choice):
    if choice == "resume=null":
        with pytest.raises(InputError, match="holds another run"):
            run(unfinished, *settings, "test=false", choice)
        return
    run(unfinished, *settings, "trainer.max_epochs=1", "test=false", choice)
    assert "resumed" not in capsys.readouterr().out


def test_a_requeued_job_goes_on_although_it_was_told_to_overwrite(unfinished, settings, capsys, run, monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run(unfinished, *settings, "test=false", "overwrite=true")
    assert "resumed" in capsys.readouterr().out


def test_a_finished_run_goes_on_only_where_its_folder_is_named(unfinished, settings, run):
    run(unfinished, *settings, "trainer.max_epochs=1", "test=false")
    with pytest.raises(InputError, match="holds a finished run"):
        run(unfinished, *settings, "test=false")
    run(unfinished, *settings, "test=false", f"resume={unfinished}")
    assert len(json.loads((unfinished / "metrics.json").read_text())["history"]) == 2


@pytest.mark.parametrize("changed", ["optimizer.lr=1e-4", "data.batch_size=8", "seed=3", "data.max_reviews=100"])
def test_a_run_of_other_settings_is_not_gone_on_with(unfinished, settings, changed, run):
    before = (unfinished / "checkpoints" / "last.ckpt").read_bytes()
    named = changed.split("=")[0].replace("data.max_reviews", "training reviews")
    with pytest.raises(InputError, match=rf"{named}.*overwrite=true"):
        run(unfinished, *settings, changed)
    assert (unfinished / "checkpoints" / "last.ckpt").read_bytes() == before


def test_weights_that_overflow_never_replace_good_ones(settings, tmp_path, monkeypatch, run):
    """A gradient can overflow where the loss does not: the step after would be the first to notice."""
    step = ReviewModule.on_train_batch_end

    def overflow(self, *arguments):
        if self.global_step == 3:
            self.classifier.head.weight.data[0, 0] = float("inf")
        return step(self, *arguments)

    monkeypatch.setattr(ReviewModule, "on_train_batch_end", overflow)
    # the callback that saves comes before the module's own hook: it sees the third step whole, and the fourth broken
    with pytest.raises(TrainingDiverged, match=r"at step 3 with a learning rate of"):
        run(tmp_path, *settings, "checkpoint.every_n_steps=1")
    good = parts(tmp_path, "last.ckpt")
    assert int(good["step"]) == 3
    assert all(torch.isfinite(tensor.float()).all() for tensor in good.values())


def test_weights_that_are_nan_are_not_saved(settings, tmp_path, monkeypatch, run):
    saved = LastCheckpoint.on_train_batch_end

    def overflow(self, trainer, module, *arguments):
        if trainer.global_step == 3:
            module.classifier.head.weight.data[0, 0] = float("nan")
        saved(self, trainer, module, *arguments)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", overflow)
    with pytest.raises(TrainingDiverged, match=r"head\.weight is NaN or infinite after step 3 with"):
        run(tmp_path, *settings, "checkpoint.every_n_steps=1")
    assert int(parts(tmp_path, "last.ckpt")["step"]) == 2
