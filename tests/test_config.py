"""Settings stand in one place each, conf/ fits them, and what a user gets wrong is named in one line."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf.errors import OmegaConfBaseException

from bertlens.cli.command_line import for_hydra, resume_command
from bertlens.cli.launch import read_config
from bertlens.cli.messages import one_line
from bertlens.config import SCHEMAS, TrainConfig
from bertlens.errors import InputError
from bertlens.system.settings import keys, problems, type_names
from bertlens.training.settings import TrainerSettings

REPOSITORY = Path(__file__).parents[1]
CONF = REPOSITORY / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(name: str, *overrides: str):
    GlobalHydra.instance().clear()
    for each, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{each}_schema", node=schema)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, ["logger=none", *overrides] if name == "train" else list(overrides))


def config_of(*overrides: str) -> TrainConfig:
    return read_config(composed("train", *overrides))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_presets_fit_the_schema(experiment):
    config_of(f"experiment={experiment}")


def test_the_notebook_preset_is_the_notebook():
    config = config_of("experiment=notebook")
    assert (config.optimizer.lr, config.trainer.max_epochs, config.data.batch_size) == (5e-5, 2, 32)
    assert (config.data.padding, config.data.max_length, config.model.attention_mask) == ("max_length", 256, False)
    assert config.model.frozen_dropout
    assert config.features.dtype == "float32"
    assert (config.checkpoint.keep, config.print_every) == ("last", 10)


def test_the_defaults_are_the_recipe():
    config = config_of()
    assert (config.optimizer.lr, config.trainer.max_epochs, config.data.batch_size) == (5e-5, 2, 32)
    assert (config.model.trainable_layers, config.data.max_length, config.data.cleaning) == (1, 256, "notebook")


@pytest.mark.parametrize("name", SCHEMAS)
def test_each_key_has_a_meaning_and_a_type(name):
    for key, known in keys(SCHEMAS[name]).items():
        assert known.meaning, key
        assert known.affects in ("steps", "results", "nothing"), key
        assert type_names(SCHEMAS[name])[key], key


def test_trainer_takes_what_lightnings_trainer_takes():
    import inspect

    import pytorch_lightning as pl

    theirs = set(inspect.signature(pl.Trainer).parameters)
    assert theirs - set(keys(TrainerSettings)) == {"callbacks", "logger", "plugins", "use_distributed_sampler"}
    for name in keys(TrainerSettings):
        default = inspect.signature(pl.Trainer).parameters[name].default
        assert getattr(TrainerSettings(), name) == default, name


def test_what_decides_the_steps_is_said_at_each_key():
    deciding = {key for key, known in keys(TrainConfig).items() if known.affects == "steps"}
    assert {
        "optimizer.lr",
        "data.batch_size",
        "trainer.precision",
        "trainer.gradient_clip_algorithm",
        "seed",
    } <= deciding
    assert not {"trainer.max_epochs", "trainer.profiler", "features.cache", "cache_dir", "report"} & deciding


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["trainer.max_epochs=many"], "trainer.max_epochs"),
        (["optimizer.lr=fast"], "optimizer.lr"),
        (["data.header=perhaps"], "data.header"),
        (["trainer=5"], "trainer"),
        (["+optimizer.momentum=0.9"], "optimizer.momentum: no such key"),
        (["+nonsense=1"], "nonsense: no such key"),
        (["optimizer.lrr=1"], "optimizer.lrr: no such key; did you mean optimizer.lr?"),
        (["lr=1"], "did you mean optimizer.lr?"),
        (["data.max_lenght=3"], "did you mean data.max_length?"),
        (["trainer.precisio=16-mixed"], "did you mean trainer.precision?"),
        (["model=bert_huge"], "model=bert_huge: no such option, only bert_base, minilm; did you mean model=bert_base?"),
        (["seed=${seed}"], "seed"),
        (["seed=${nowhere}"], "nowhere"),
        (["data.batch_size=0"], "data.batch_size=0: must be at least 1"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: give a finite number"),
        (["data.text_column=' '"], "data.text_column= : empty"),
        (["data.truncation=middle"], "data.truncation=middle: choose one of head, tail, head_tail"),
        (["trainer.devices=99"], "trainer.devices=99"),
        (
            ["data.validation_fraction=0", "checkpoint.keep=best"],
            "checkpoint.keep=best: needs validation reviews",
        ),
        (["data.validation_fraction=0", "callbacks=early_stopping"], "callbacks.early_stopping: needs validation"),
        (["trainer.overfit_batches=2", "trainer.fast_dev_run=true"], "trainer.overfit_batches"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_that_names_it(overrides, named):
    with pytest.raises(Exception) as caught:
        config_of(*overrides)
    line = one_line(caught.value, TrainConfig)
    assert named in line
    assert "\n" not in line


def test_problems_of_all_sections_come_together():
    with pytest.raises(InputError) as caught:
        config_of(
            "model.attention_mask=false",
            "features.dtype=int4",
            "checkpoint.keep=worst",
            "trainer.max_epochs=-3",
            "model.trainable_layers=true",
            "seed=-1",
        )
    for key in (
        "data.padding",
        "features.dtype",
        "checkpoint.keep",
        "trainer.max_epochs",
        "model.trainable_layers",
        "seed",
    ):
        assert key in str(caught.value)


def test_a_class_of_ones_own_takes_part_in_the_checks():
    assert list(problems(TrainConfig())) == []


@pytest.mark.parametrize(
    "argument",
    [
        "optimizer.lr=1e-5,2e-5",
        "experiment=demo",
        "model=minilm",
        "hydra/launcher=joblib",
        "hydra.run.dir=x",
        "~logger",
    ],
)
def test_right_arguments_pass(argument):
    assert for_hydra([argument], TrainConfig) == [argument]


@pytest.mark.parametrize("text", ["I can't, really: it's 100% (dull)", "a = b\\c", "null", "1e5", "你好!"])
def test_a_text_of_ones_own_needs_no_quoting(text):
    [argument] = for_hydra([f"text={text}"], SCHEMAS["visualize"])
    assert str(OverridesParser.create().parse_override(argument).value()) == text


def test_short_forms_are_written_out():
    assert for_hydra(["checkpoint=a/b.ckpt"], TrainConfig) == ["checkpoint.path=a/b.ckpt"]
    assert for_hydra(["checkpoint=a/b.ckpt"], SCHEMAS["evaluate"]) == ["checkpoint=a/b.ckpt"]
    assert for_hydra(["checkpoint=a b=c.ckpt"], SCHEMAS["evaluate"]) == ["checkpoint='a b=c.ckpt'"]
    assert for_hydra(["logger=false"], TrainConfig) == ["logger=none"]
    assert for_hydra(["data.train_file=a.csv"], TrainConfig) == ["data.train_file=a.csv", "data=files"]
    assert for_hydra(["model=minilm", "-m", "seed=1,2"], TrainConfig)[:3] == ["-m", "model=minilm", "seed=1,2"]


def test_a_sweep_over_depth_asks_for_one_store_that_serves_all():
    assert "features.max_trainable_layers=2" in for_hydra(["-m", "model.trainable_layers=0,2,1"], TrainConfig)
    assert for_hydra(["model.trainable_layers=2"], TrainConfig) == ["model.trainable_layers=2"]


def test_a_sweeps_jobs_are_named_by_what_varies():
    given = ["-m", "model=minilm", "data.path=/a/b", "+callbacks.x.a=1", "optimizer.lr=1e-5,2e-5"]
    arguments = for_hydra(given, TrainConfig)
    left_out = "'callbacks.x.a','data.path','features.max_trainable_layers','model'"
    assert arguments[-1] == f"hydra.job.config.override_dirname.exclude_keys=[{left_out}]"
    assert (
        for_hydra(arguments, TrainConfig) == arguments
    )  # Lightning starts further processes with what was written out


def test_a_sweep_under_slurm_has_a_number_of_tasks(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    arguments = for_hydra(["-m", "hydra/launcher=slurm", "optimizer.lr=1e-5,2e-5"], TrainConfig)
    assert "trainer.devices=1" in arguments
    assert "'trainer.devices'" in arguments[-1]  # and its jobs are not named by it
    assert for_hydra(arguments, TrainConfig) == arguments
    two = for_hydra(["-m", "hydra/launcher=slurm", "trainer.devices=2", "seed=1,2"], TrainConfig)
    assert "trainer.devices=1" not in two


def test_without_slurm_a_line_says_what_to_use_instead(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"no SLURM here .*joblib"):
        for_hydra(["-m", "hydra/launcher=slurm", "optimizer.lr=1e-5,2e-5"], TrainConfig)


def test_resume_takes_over_what_the_run_was_given(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- model=minilm\n- optimizer.lr=1e-3\n- resume=auto\n")
    found = for_hydra([f"resume={tmp_path}", "optimizer.lr=2e-3"], TrainConfig)
    assert found == ["model=minilm", f"hydra.run.dir='{tmp_path}'", "optimizer.lr=2e-3", f"resume={tmp_path}"]
    assert for_hydra(found, TrainConfig) == found
    with pytest.raises(InputError, match="no run's folder"):
        for_hydra([f"resume={tmp_path / 'nowhere'}"], TrainConfig)


def test_the_command_that_goes_on():
    script, console = ["python", "train.py"], ["bertlens", "train"]
    assert resume_command(script, ["seed=1"], "outputs/a", in_sweep=False) == "python train.py resume=outputs/a"
    assert (
        resume_command(console, ["-m", "seed=1,2"], "outputs/a", in_sweep=True)
        == "bertlens train -m hydra.sweep.dir=outputs/a seed=1,2"
    )


def test_an_error_is_one_line_without_control_characters():
    assert one_line(InputError("a\nb\x1b[31mc\u202e")) == "a b⟨U+001B⟩[31mc⟨U+202E⟩"
    assert one_line(KeyError("x")) == "KeyError: 'x'"


def test_a_value_that_must_be_given_is_named_with_its_meaning():
    with pytest.raises(OmegaConfBaseException) as caught:
        read_config(composed("evaluate"))
    line = one_line(caught.value, SCHEMAS["evaluate"])
    assert line.startswith("checkpoint: it needs a value (what to evaluate: a checkpoint, a run's folder, or latest)")


def test_every_conf_file_says_what_it_is():
    for path in CONF.rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("#"), path


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [["--help"], ["--help", "optimizer"], ["optimizer.lrr=1"], ["--version"]])
def test_the_command_line_is_answered_before_anything_heavy_is_imported(arguments, tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(REPOSITORY / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pytorch_lightning', 'datasets', 'pyarrow', 'tokenizers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 10
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
