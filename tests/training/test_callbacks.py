"""A stopped run goes on with the same numbers, also with callbacks that average weights; stopping loses nothing."""

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
    LastCheckpoint,
    StopOnRequest,
    best_accuracy,
    check_monitors,
    kept_checkpoint,
    load_weights,
)
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
    tensors["random numbers"] = raw["random_state"]["cpu"]
    for number, state in raw["optimizer_states"][0]["state"].items():
        tensors |= {f"{number} {kind}": value for kind, value in state.items()}
    tensors["step"] = torch.tensor(raw["global_step"])
    tensors["learning rate"] = torch.tensor(raw["lr_schedulers"][0]["_last_lr"])
    return tensors


def differing(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def logged(trainer):
    return {name: value for name, value in trainer.callback_metrics.items() if name != "train/loss_step"}


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
        assert logged(fresh) == {name: value for name, value in tested.items() if name.startswith("test/")}


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


def test_the_best_or_the_last_checkpoint_is_tested(fit, tmp_path, caplog):
    trainer, _, _ = fit(tmp_path)
    assert kept_checkpoint(trainer, "best") == tmp_path / "best.ckpt"
    assert kept_checkpoint(trainer, "last") == tmp_path / "last.ckpt"
    assert best_accuracy(trainer).keys() == {"val/accuracy"}


def test_without_a_validated_epoch_the_last_checkpoint_is_tested_and_the_log_says_so(fit, tmp_path, caplog):
    trainer, _, _ = fit(tmp_path, max_steps=2)
    with caplog.at_level("INFO", logger="bertlens"):
        assert kept_checkpoint(trainer, "best") == tmp_path / "last.ckpt"
    assert "no epoch was validated: last.ckpt is tested" in caplog.text
    assert best_accuracy(trainer) == {}
    assert read_raw(tmp_path / "last.ckpt")["global_step"] == 2


def test_a_trainer_without_checkpoints_keeps_none(make_trainer):
    assert kept_checkpoint(make_trainer(), "best") is None


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
