"""A stopped run goes on with the same numbers, also with callbacks that average weights; stopping loses nothing."""

import re
import shutil

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)

from bertlens.errors import InputError
from bertlens.model.checkpoint import read_raw
from bertlens.system.stopping import Stopped
from bertlens.training import callbacks
from bertlens.training.callbacks import (
    BestCheckpoint,
    EpochLines,
    LastCheckpoint,
    OneLineBar,
    StopOnRequest,
    check_monitors,
    describe_kept,
    history,
    kept_accuracy,
    kept_checkpoint,
    load_weights,
)
from bertlens.training.metrics import StageMetrics
from bertlens.training.module import TrainingDiverged


class Stop:
    """Asks a run to stop at its n-th chance: after every step, and within every validation."""

    def __init__(self, chance: int) -> None:
        self.chance = chance
        self.chances = 0

    def __call__(self, trainer) -> bool:
        self.chances += 1
        return self.chances == self.chance


@pytest.fixture
def fit(make_module, make_data, make_trainer, monkeypatch):
    """`fit(folder)` trains two epochs; `stop=3` asks to stop at the third chance; `resume=True` goes on."""

    def run(folder, *others, stop=0, resume=False, every_n_steps=None, optimizer=None, whole_model=False, **options):
        asked = Stop(stop)
        monkeypatch.setattr(callbacks, "stop_requested", asked)
        last = folder / "last.ckpt" if resume else None
        ours = [
            StopOnRequest(),
            BestCheckpoint(folder, resumed=last),
            LastCheckpoint(folder, every_n_steps=every_n_steps),
        ]
        optimizer = optimizer or {"schedule": "linear", "warmup": 0.3}
        module = make_module(optimizer=optimizer, whole_model=whole_model)
        trainer = make_trainer(callbacks=[*others, *ours], **({"max_epochs": 2} | options))
        trainer.fit(module, make_data(), ckpt_path=last)
        return trainer, module, asked.chances

    return run


def parts(path):
    """What of a checkpoint must be equal: weights, averages, moments, the schedule, the random numbers, the metrics."""
    raw = read_raw(path)
    tensors = dict(raw["state_dict"]) | {f"own {name}": t for name, t in raw.get("current_model_state", {}).items()}
    tensors["random numbers"] = raw["random_state"][0]["cpu"]
    for number, state in raw["optimizer_states"][0]["state"].items():
        tensors |= {f"{number} {kind}": value for kind, value in state.items()}
    tensors["step"] = torch.tensor(raw["global_step"])
    tensors["learning rate"] = torch.tensor(raw["lr_schedulers"][0]["_last_lr"])
    return tensors


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def logged(trainer):
    return {name: value for name, value in trainer.callback_metrics.items() if name not in ("train/loss_step", "step")}


@pytest.mark.parametrize(
    ("options", "others"),
    [
        pytest.param({"accumulate_grad_batches": 2}, [], id="accumulated"),
        pytest.param({}, [], id="plain", marks=pytest.mark.slow),
        pytest.param({"val_check_interval": 0.4}, [], id="validated within epochs", marks=pytest.mark.slow),
        pytest.param({"check_val_every_n_epoch": 2}, [], id="validated every other epoch", marks=pytest.mark.slow),
        pytest.param(
            {"check_val_every_n_epoch": None, "val_check_interval": 4},
            [],
            id="validated every 4 batches",
            marks=pytest.mark.slow,
        ),
        pytest.param({}, [EMAWeightAveraging], id="averaged", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_anywhere_goes_on_with_the_same_numbers(fit, tmp_path, options, others):
    trainer, _, stops = fit(tmp_path / "whole", *(make() for make in others), **options)
    whole, expected = parts(tmp_path / "whole" / "last.ckpt"), logged(trainer)
    assert stops > 8 // options.get("accumulate_grad_batches", 1)
    for chance in range(1, stops + 1):
        folder = tmp_path / str(chance)
        with pytest.raises(Stopped):
            fit(folder, *(make() for make in others), stop=chance, **options)
        trainer, _, _ = fit(folder, *(make() for make in others), resume=True, **options)
        assert differing(whole, parts(folder / "last.ckpt")) == [], f"stopped at chance {chance}"
        assert expected | logged(trainer) == expected, f"stopped at chance {chance}"


def test_a_run_stopped_twice_in_one_validation_goes_on_as_well(fit, tmp_path):
    trainer, _, _ = fit(tmp_path / "whole")
    with pytest.raises(Stopped):
        fit(tmp_path / "run", stop=6)  # after 4 steps (the last one of an epoch is no chance) and a batch
    for _ in range(2):
        with pytest.raises(Stopped):
            fit(tmp_path / "run", stop=1, resume=True)
    assert read_raw(tmp_path / "run" / "last.ckpt")["global_step"] == 5
    again, _, _ = fit(tmp_path / "run", resume=True)
    assert differing(parts(tmp_path / "whole" / "last.ckpt"), parts(tmp_path / "run" / "last.ckpt")) == []
    assert differing(parts(tmp_path / "whole" / "best.ckpt"), parts(tmp_path / "run" / "best.ckpt")) == []
    assert logged(again) == logged(trainer)


@pytest.mark.parametrize("make", [EMAWeightAveraging, WeightAveraging, lambda: StochasticWeightAveraging(1e-2, 1)])
def test_averaged_weights_are_saved_resumed_and_tested(fit, make_module, make_data, make_trainer, tmp_path, make):
    trainer, module, _ = fit(tmp_path / "whole", make(), max_epochs=4)
    fit(tmp_path / "half", make(), max_epochs=2, optimizer={"schedule": "constant"})
    for name in ("best.ckpt", "last.ckpt"):
        load_weights(module, tmp_path / "whole" / name)
        trainer.test(module, make_data(), verbose=False)
        tested = logged(trainer)
        saved = read_raw(tmp_path / "whole" / name)["state_dict"]
        assert all(torch.equal(tensor, saved[name]) for name, tensor in module.state_dict().items())
        other, fresh = make_module(), make_trainer()  # as in another process
        load_weights(other, tmp_path / "whole" / name)
        fresh.test(other, make_data(), verbose=False)
        kinds = ("test/", "test_calibrated/")
        assert logged(fresh) == {name: value for name, value in tested.items() if name.startswith(kinds)}


def test_the_weights_that_swa_averages_at_the_end_are_in_the_last_checkpoint(fit, tmp_path):
    swa = StochasticWeightAveraging(1e-2, 1)
    _, module, _ = fit(tmp_path, swa, max_epochs=3)
    saved = read_raw(tmp_path / "last.ckpt")["state_dict"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("make", [EMAWeightAveraging, lambda: StochasticWeightAveraging(1e-2, 1)])
def test_a_run_with_averaged_weights_goes_on_after_an_epoch(fit, tmp_path, make, monkeypatch):
    class Killed(Exception):
        pass

    class Kill(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                raise Killed

    fit(tmp_path / "whole", make(), max_epochs=4)
    with pytest.raises(Killed):
        fit(tmp_path / "run", make(), Kill(), max_epochs=4)
    fit(tmp_path / "run", make(), max_epochs=4, resume=True)
    assert differing(parts(tmp_path / "whole" / "last.ckpt"), parts(tmp_path / "run" / "last.ckpt")) == []


def test_no_checkpoint_has_exchanged_weights(fit, tmp_path, monkeypatch):
    """Within a validation the module holds the averaged weights, and the callback those of the last step."""
    after_steps, are_own = [], []
    save = LastCheckpoint.save

    class Steps(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            after_steps.append(module.classifier.head.weight.detach().clone())

    def watch(self, trainer):
        save(self, trainer)
        raw = read_raw(self.path)
        own, averaged = (raw[key]["classifier.head.weight"] for key in ("current_model_state", "state_dict"))
        are_own.append(torch.equal(own, after_steps[-1]) and not torch.equal(averaged, after_steps[-1]))

    monkeypatch.setattr(LastCheckpoint, "save", watch)
    fit(tmp_path, EMAWeightAveraging(), Steps(), every_n_steps=1)
    # 4 steps of 5, before the validation, after it; in each of 2 epochs. The first average is that of one step
    assert are_own == [False] + [True] * 11


class Remembers(pl.Callback):
    def __init__(self, value) -> None:
        self.value = value

    def state_dict(self):
        return {"inner": [self.value]}


@pytest.mark.parametrize("value", [object(), torch.float32, {1, 2}, len])
def test_a_callback_with_an_object_in_its_state_is_named_at_the_first_save(fit, tmp_path, value):
    with pytest.raises(
        InputError, match=rf"callbacks\.Remembers\.inner\.0 is a {type(value).__name__}: .*plain values"
    ):
        fit(tmp_path, Remembers(value), every_n_steps=1)
    assert not list(tmp_path.glob("*"))


def test_plain_states_are_saved(fit, tmp_path):
    value = (1, 2.5, None, True, "text", b"bytes", torch.ones(2), {3: []})
    fit(tmp_path, Remembers(value), EarlyStopping("val/loss"))
    saved = read_raw(tmp_path / "last.ckpt")["callbacks"]["Remembers"]["inner"][0]
    assert saved[:6] == value[:6]


def test_a_monitor_that_is_not_logged_is_named_before_training():
    check_monitors([EarlyStopping("val/f1"), EarlyStopping("train/loss"), ModelCheckpoint(monitor="step")])
    with pytest.raises(
        InputError, match=r"EarlyStopping has monitor='val_loss'; choose one of train/accuracy, .*val/loss"
    ):
        check_monitors([EarlyStopping("val_loss")])
    check_monitors([EarlyStopping("gradient_norm"), Remembers(0)])  # which may log it


def test_the_best_or_the_last_checkpoint_is_tested(fit, tmp_path, script):
    script((0.6, 0.5), (0.5, 0.4))
    trainer, _, _ = fit(tmp_path, EpochLines(every=None))
    assert kept_checkpoint(trainer, "best") == tmp_path / "best.ckpt"
    assert kept_checkpoint(trainer, "last") == tmp_path / "last.ckpt"
    assert kept_accuracy(trainer, "best") == {"val/accuracy": pytest.approx(0.6)}
    assert kept_accuracy(trainer, "last") == {"val/accuracy": pytest.approx(0.5)}
    assert describe_kept(trainer, "best") == "epoch 1 of 2 (best validation accuracy)"
    assert describe_kept(trainer, "last") == "the last step (checkpoint.keep=last)"


def test_without_a_validated_epoch_the_last_checkpoint_is_tested_and_the_run_says_so(fit, tmp_path):
    trainer, _, _ = fit(tmp_path, max_steps=2)
    assert kept_checkpoint(trainer, "best") == tmp_path / "last.ckpt"
    assert describe_kept(trainer, "best") == "the last step (no epoch was validated)"
    assert kept_accuracy(trainer, "best") == kept_accuracy(trainer, "last") == {}
    assert read_raw(tmp_path / "last.ckpt")["global_step"] == 2


def test_a_trainer_without_checkpoints_keeps_none(make_trainer):
    assert kept_checkpoint(make_trainer(), "best") is None
    assert describe_kept(make_trainer(), "best") == "nothing (this run writes no checkpoints)"


@pytest.fixture
def script(monkeypatch):
    """`script((0.5, 0.7), ...)`: what each validation gives, as accuracy and loss."""

    def begin(*validations):
        compute, left = StageMetrics.compute, iter(validations)

        def scripted(self):
            if self.prefix != "val/":
                return compute(self)
            return dict(zip(("val/accuracy", "val/loss"), map(torch.tensor, next(left)), strict=True))

        monkeypatch.setattr(StageMetrics, "compute", scripted)

    return begin


@pytest.mark.parametrize(
    ("validations", "kept"),
    [
        (
            [(0.5, 0.7), (0.6, 0.9), (0.6, 0.8), (0.6, 0.85)],
            "epoch 3 of 4 (best validation accuracy, tie broken by the loss)",
        ),
        (
            [(0.6, 0.7), (0.6, 0.9), (0.5, 0.1), (0.6, 0.7)],
            "epoch 1 of 4 (best validation accuracy, tie broken by the loss)",
        ),
        ([(0.5, 0.7), (0.6, 0.9), (0.7, 0.95), (0.6, 0.1)], "epoch 3 of 4 (best validation accuracy)"),
        (
            [(0.6, float("nan")), (0.6, 0.9), (0.5, 0.1), (0.5, 0.1)],
            "epoch 1 of 4 (best validation accuracy, tie broken by the loss)",
        ),
    ],
)
def test_of_equal_accuracies_the_lower_loss_is_kept(fit, tmp_path, script, validations, kept):
    script(*validations)
    trainer, _, _ = fit(tmp_path, EpochLines(every=None), max_epochs=4)
    assert describe_kept(trainer, "best") == kept


@pytest.mark.parametrize(("loss", "kept"), [(0.7, 3), (0.9, 1)])
@pytest.mark.parametrize("moved", [False, True])
def test_a_resumed_run_goes_on_comparing(fit, tmp_path, script, loss, kept, moved):
    script((0.6, 0.8), (0.5, 0.1), (0.6, loss))
    fit(tmp_path / "run", EpochLines(every=None))
    folder = shutil.copytree(tmp_path / "run", tmp_path / "moved") if moved else tmp_path / "run"
    trainer, _, _ = fit(folder, EpochLines(every=None), resume=True, max_epochs=3)
    assert describe_kept(trainer, "best").startswith(f"epoch {kept} of 3 ")
    assert [row["val/accuracy"] for row in history(trainer)] == pytest.approx([0.6, 0.5, 0.6])


def test_each_epoch_leaves_a_line_and_its_metrics(fit, tmp_path, capsys):
    trainer, _, _ = fit(tmp_path, EpochLines(every=2), max_epochs=4, check_val_every_n_epoch=2)
    iterations, epochs = ([], [])
    for line in capsys.readouterr().out.splitlines():
        assert len(line) <= 80
        (iterations if line.startswith("iteration ") else epochs).append(line)
    assert len(iterations) == 8  # of 5 batches per epoch
    rows = history(trainer)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [("val/loss" in row) for row in rows] == [False, True, False, True]
    assert rows[3] == {"epoch": 4} | {name: value.item() for name, value in logged(trainer).items()}
    for line, row in zip(epochs, rows, strict=True):
        validation = "; validation loss {val/loss:.3f}, accuracy {val/accuracy:.3f}" if "val/loss" in row else ""
        expected = f"epoch {row['epoch']}/4: loss {row['train/loss']:.3f}" + validation.format_map(row)
        assert re.fullmatch(re.escape(expected) + r"; \d\.\d s", line)


def test_a_run_that_was_stopped_has_the_history_of_one_that_was_not(fit, tmp_path):
    whole, _, _ = fit(tmp_path / "whole", EpochLines(every=None))
    with pytest.raises(Stopped):
        fit(tmp_path / "run", EpochLines(every=None), stop=9)  # in the second epoch
    rest, _, _ = fit(tmp_path / "run", EpochLines(every=None), resume=True)
    assert history(rest) == history(whole)
    assert history(rest)[1]["epoch"] == 2


def test_the_bar_is_one_line_of_80_columns(fit, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "81")  # tqdm leaves the last one free
    monkeypatch.setenv("LINES", "40")
    bar = OneLineBar(refresh_rate=1)
    fit(
        tmp_path,
        EpochLines(every=None),
        bar,
        enable_progress_bar=True,
        max_epochs=100,
        max_steps=10,
        log_every_n_steps=1,
    )
    printed = capsys.readouterr().out
    assert "\x1b[A" not in printed  # it never moves to another line
    shown = [part.rstrip() for part in re.split(r"[\r\n]", printed)]
    assert max(map(len, shown)) <= 80
    last = next(part for part in reversed(shown) if part.startswith("epoch 2/100: 100% |"))
    assert re.search(r"\| \d\d:\d\d left, loss=\d\.\d{3}, validation accuracy=\d\.\d{3}$", last)
    assert any(part.startswith("Validation") for part in shown)
    assert [part for part in printed.split("\n") if "epoch 1/100: loss" in part.rpartition("\r")[2]]


def test_a_checkpoint_holds_the_trained_parameters_or_all(fit, tmp_path, tiny_config):
    _, module, _ = fit(tmp_path / "trained", max_epochs=1)
    raw = read_raw(tmp_path / "trained" / "last.ckpt")
    trained = {f"classifier.{name}" for name, _ in module.classifier.named_parameters()}
    assert raw["state_dict"].keys() == trained
    assert {name.split(".")[4] for name in trained if ".layer." in name} == {"2"}
    assert "frozen_parameters" not in raw
    assert raw["bertlens"]["label_names"] == ["negative", "positive"]
    fit(tmp_path / "whole", max_epochs=1, whole_model=True)
    whole = read_raw(tmp_path / "whole" / "last.ckpt")
    assert whole["state_dict"].keys() == trained
    names = {name.split(".")[3] for name in whole["frozen_parameters"] if ".layer." in name}
    assert names == {"0", "1"}
    assert "bert.embeddings.word_embeddings.weight" in whole["frozen_parameters"]


def test_weights_that_are_nan_are_not_saved(fit, tmp_path):
    class Overflow(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if trainer.global_step == 3:
                module.classifier.head.weight.data[0, 0] = float("nan")

    with pytest.raises(TrainingDiverged, match=r"head\.weight is NaN or infinite after step 3 with"):
        fit(tmp_path, Overflow(), every_n_steps=1)
    assert read_raw(tmp_path / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize("chance", [6, 9])  # in a validation, and in the epoch after it
def test_the_bar_leaves_the_line_to_an_error(fit, tmp_path, capsys, chance):
    with pytest.raises(Stopped):
        fit(tmp_path, OneLineBar(refresh_rate=1), enable_progress_bar=True, stop=chance)
    assert capsys.readouterr().out.split("\r")[-1] == ""
