"""conf/ and its schema say the same, and what a user gets wrong is named in one line."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bertlens.cli.command_line import _shared_store, spelt_out
from bertlens.cli.launch import help_text, one_line
from bertlens.config import CONF, SCHEMAS, check_train, keys_of, typed
from bertlens.errors import InputError
from bertlens.targets import ALLOWED_NAMES, check_names

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def composed(name: str, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*overrides, "hydra/job_logging=none"])


def dotted(node, prefix=""):
    for key, value in node.items():
        if hasattr(value, "items") and prefix + key not in ("model.published.sha256", "callbacks", "sha256"):
            yield from dotted(value, f"{prefix}{key}.")
        elif not hasattr(value, "items") or prefix + key in ("callbacks",) or key == "sha256":
            yield prefix + key


@pytest.mark.parametrize("name", SCHEMAS)
def test_conf_has_every_key_of_the_schema_and_no_other(name):
    values = OmegaConf.to_container(composed(name))
    assert set(dotted(values)) == set(keys_of(SCHEMAS[name]))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_presets_fit_the_schema(experiment):
    config = typed(composed("train", f"experiment={experiment}"), SCHEMAS["train"])
    check_train(config)


def test_notebook_preset_is_the_notebook():
    config = typed(composed("train", "experiment=notebook"), SCHEMAS["train"])
    assert (config.optimizer.lr, config.trainer.max_epochs, config.data.batch_size) == (5e-5, 2, 32)
    assert (config.data.padding, config.data.max_length, config.model.attention_mask) == ("max_length", 256, False)
    assert config.model.frozen_dropout
    assert config.features.dtype == "float32"
    assert (config.checkpoint.keep, config.print_every) == ("last", 10)


def refusal(content) -> str:
    with pytest.raises(InputError) as caught:
        check_names(OmegaConf.create(content))
    return str(caught.value)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "pytorch_lightning.callbacks.model_checkpoint.os.system",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.__builtins__",
        "pytorch_lightning.callbacks.",
        "pytorch_lightning.callbacks.Timer ",
        "pytorch_lightning.loggers.CSVLogger",
        "bertlens.run.sweep.SweepTable.on_multirun_end",
        "",
        None,
        1,
        ["pytorch_lightning.callbacks.Timer"],
        {"a": "b"},
        "${allowed}",
        "pytorch_lightning.callbacks.${name}",
        "${oc.env:HOME}",
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["callbacks", "hydra", "data", "list"])
def test_only_whole_known_names_may_be_targets(target, place):
    node = {"x": {"_target_": target}}
    content = {"allowed": "pytorch_lightning.callbacks.Timer", "name": "Timer"}
    content[place] = [{"a": [node]}] if place == "list" else {"a": {"_target_": content["allowed"], "b": node}}
    where = "list.0.a.0.x._target_=" if place == "list" else f"{place}.a.b.x._target_="
    assert where in refusal(content)


def test_what_may_be_named_passes_and_is_there():
    for kind, names in ALLOWED_NAMES.items():
        for name in names:
            check_names(OmegaConf.create({"a": [{kind if kind != "ext://" else "stream": name}]}))
    assert "pytorch_lightning.callbacks.LearningRateMonitor" in ALLOWED_NAMES["_target_"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"a": "${oc.create:{_target_:os.system}}"}, "a._target_=os.system"),
        ({"a": "${oc.decode:'{_target_: os.system}'}"}, "a._target_=os.system"),
        ({"a": "${b}", "b": {"c": [{"_target_": "os.system"}]}}, "a.c.0._target_=os.system"),
        ({"a": "${oc.decode:${hydra:job.name}}"}, "has no value before the run"),
        ({"a": "${oc.${b}:${hydra:job.name}}", "b": "decode"}, "has no value before the run"),
        ({"a": {"b": "${a}", "_target_": "os.system"}}, "a._target_=os.system"),
        ({"class": "subprocess.Popen"}, "only handlers of logging"),
        ({"class": "logging.os.system"}, "only handlers of logging"),
        ({"()": "os.system"}, "only colorlog.ColoredFormatter"),
        ({"stream": "ext://os.system"}, "only ext://sys.stdout"),
        ({"stream": "${a}s.system", "a": "ext://o"}, "only ext://sys.stdout"),
    ],
    ids=str,
)
def test_what_an_interpolation_and_logging_may_name(content, problem):
    from hydra.core.hydra_config import HydraConfig

    assert not HydraConfig.initialized() or HydraConfig.instance().cfg is None
    assert problem in refusal(content)


@pytest.mark.parametrize(
    "text", ["${hydra.runtime.output_dir}/x", "${hydra:job.num}", "${hydra.job.num}_${oc.env:HOME}"]
)
def test_what_is_known_in_the_run_only_passes_as_text(text):
    check_names(OmegaConf.create({"a": text, "hydra": {"runtime": {"output_dir": "???"}, "job": {"num": "???"}}}))


def test_help_has_a_line_for_every_key():
    lines = help_text("train").splitlines()
    for key, meaning in keys_of(SCHEMAS["train"]).items():
        assert any(line.split()[:1] == [key] and line.endswith(meaning.replace("$", "$$")) for line in lines), key


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["trainer.max_epochs=many"], "trainer.max_epochs"),
        (["optimizer.lr=fast"], "optimizer.lr"),
        (["data.header=perhaps"], "data.header"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(overrides, named):
    with pytest.raises(InputError, match=named):
        typed(composed("train", *overrides), SCHEMAS["train"])


def test_problems_across_keys_come_together():
    config = typed(
        composed(
            "train",
            "model.attention_mask=false",
            "features.dtype=int4",
            "checkpoint.keep=worst",
            "trainer.max_epochs=0",
            "+callbacks.evil._target_=os.system",
        ),
        SCHEMAS["train"],
    )
    with pytest.raises(InputError) as caught:
        check_train(config)
    for key in (
        "data.padding",
        "features.dtype",
        "checkpoint.keep",
        "trainer.max_epochs",
        "callbacks.evil._target_",
    ):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "meant"),
    [
        ("optimizer.lrr=1", "optimizer.lr"),
        ("lr=1", "optimizer.lr"),
        ("trainer.epochs=3", "trainer.max_epochs"),
        ("data.max_lenght=3", "data.max_length"),
    ],
)
def test_a_misspelt_key_names_the_nearest(argument, meant):
    with pytest.raises(InputError, match=f"did you mean {meant}"):
        spelt_out(argument, SCHEMAS["train"])


@pytest.mark.parametrize(
    "argument",
    ["optimizer.lr=1e-5,2e-5", "experiment=demo", "model=minilm", "hydra/launcher=joblib", "hydra.run.dir=x", "-m"],
)
def test_right_arguments_pass(argument):
    assert spelt_out(argument, SCHEMAS["train"]) == argument


@pytest.mark.parametrize("text", ["I can't, really: it's 100% (dull)", "a = b\\c", "null", "1e5", "你好!"])
def test_a_text_of_ones_own_needs_no_quoting(text):
    override = OverridesParser.create().parse_override(spelt_out(f"text={text}", SCHEMAS["visualize"]))
    assert str(override.value()) == text


def test_checkpoint_is_short_for_its_path():
    assert spelt_out("checkpoint=a/b.ckpt", SCHEMAS["train"]) == "checkpoint.path=a/b.ckpt"
    assert spelt_out("checkpoint=a/b.ckpt", SCHEMAS["evaluate"]) == "checkpoint=a/b.ckpt"


def test_a_sweep_over_depth_asks_for_one_store_that_serves_all():
    assert _shared_store(["-m", "model.trainable_layers=0,2,1"])[-1] == "features.max_trainable_layers=2"
    for kept in (["model.trainable_layers=2"], ["-m", "model.trainable_layers=1,2", "features.max_trainable_layers=3"]):
        assert _shared_store(kept) == kept


def test_an_error_is_one_line_without_control_characters():
    assert one_line(InputError("a\nb\x1b[31mc\u202e")) == "a b⟨U+001B⟩[31mc⟨U+202E⟩"
    assert one_line(KeyError("x")) == "KeyError: 'x'"


def test_every_conf_file_says_what_it_is():
    for path in Path(CONF).rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("#"), path
