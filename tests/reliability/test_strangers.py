"""A configuration or a checkpoint that came from a stranger: whatever it names as an object is neither made nor run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]
# writes a file as soon as it is made, and is in no list of dangerous names
MAKES_THE_MARKER = "{_target_: gzip.GzipFile, filename: marker, mode: w}"
LOGGING = (
    "{{version: 1, root: {{handlers: [x]}}, handlers: {{x: {{{kind}: gzip.GzipFile, filename: marker, mode: w}}}}}}"
)
FORMATTER = "{version: 1, root: {level: INFO}, formatters: {x: {class: gzip.GzipFile, format: marker}}}"
THROUGH_A_CALLBACK = f"{{_target_: pytorch_lightning.callbacks.Timer, duration: {MAKES_THE_MARKER}}}"
SYSTEM = "{_target_: pytorch_lightning.callbacks.model_checkpoint.os.system, command: touch marker}"

ON_THE_COMMAND_LINE = {
    "a callback": [f"+callbacks.x={MAKES_THE_MARKER}"],
    "behind the allowed prefix": [f"+callbacks.x={SYSTEM}"],
    "the callback that is there": ["callbacks.learning_rate._target_=gzip.GzipFile"],
    "an argument of a callback": [f"+callbacks.x={THROUGH_A_CALLBACK}"],
    "a list in a callback": [f"+callbacks.x={{_target_: pytorch_lightning.callbacks.Timer, y: [{MAKES_THE_MARKER}]}}"],
    "a callback of Hydra": [f"+hydra.callbacks.x={MAKES_THE_MARKER}"],
    "an argument of Hydra's callback": [f"+hydra.callbacks.sweep_table.x={MAKES_THE_MARKER}"],
    "Hydra's own callback": ["hydra.callbacks.sweep_table._target_=gzip.GzipFile"],
    "the launcher": ["-m", "hydra.launcher._target_=gzip.GzipFile", "seed=1,2"],
    "the sweeper": ["-m", "hydra.sweeper._target_=gzip.GzipFile", "seed=1,2"],
    "a sweep": ["-m", f"+callbacks.x={MAKES_THE_MARKER},{THROUGH_A_CALLBACK}"],
    "jobs side by side": ["-m", "hydra/launcher=joblib", f"+callbacks.x={MAKES_THE_MARKER}", "seed=1,2"],
    "a formatter in the job's logging": [f"++hydra.job_logging={FORMATTER}"],
    "a class in the job's logging": [f"++hydra.job_logging={LOGGING.format(kind='class')}"],
    "a formatter in Hydra's logging": [f"++hydra.hydra_logging={FORMATTER}"],
    "a class in Hydra's logging": [f"++hydra.hydra_logging={LOGGING.format(kind='class')}"],
    "a key of the schema": [f"model.trainable_layers={MAKES_THE_MARKER}"],
}
IN_A_FILE = {
    "its callbacks": f"callbacks: {{x: {MAKES_THE_MARKER}}}",
    "Hydra's callbacks": f"hydra: {{callbacks: {{x: {MAKES_THE_MARKER}}}}}",
    "a factory in Hydra's logging": f"hydra: {{hydra_logging: {LOGGING.format(kind='()')}}}",
    "a factory in the job's logging": f"hydra: {{job_logging: {LOGGING.format(kind='()')}}}",
    "an interpolated name": "callbacks: {x: {_target_: 'gzip.${y}', filename: marker, mode: w}, y: GzipFile}",
    "an interpolated node": f"hydra: {{callbacks: {{x: '${{callbacks.x}}'}}}}\ncallbacks: {{x: {MAKES_THE_MARKER}}}",
    "a node from a string": f"hydra: {{callbacks: {{x: \"${{oc.decode:'{MAKES_THE_MARKER}'}}\"}}}}",
    "a node from the run": (
        f"hydra: {{callbacks: {{x: '${{oc.decode:${{hydra:job.name}}}}'}}, job: {{name: '{MAKES_THE_MARKER}'}}}}"
    ),
    "the environment of the programs that are started": "hydra: {job: {env_set: {PATH: .}}}",
    "a tag of YAML": 'seed: !!python/object/apply:os.system ["touch marker"]',
}


@pytest.fixture
def refused(start, tmp_path):
    """Starts an entry point, and holds it to: no marker, an exit status, one line that says why."""

    def run(name, *arguments):
        process = start(name, *arguments)
        assert process.wait() == 1, process.output
        assert not list(tmp_path.rglob("marker*")), process.output
        assert "Traceback" not in process.output
        lines = [line for line in process.output.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, process.output
        return lines[0]

    return run


@pytest.fixture
def stranger(tmp_path):
    """A folder with one experiment in it."""

    def write(content):
        (tmp_path / "theirs" / "experiment").mkdir(parents=True, exist_ok=True)
        file = tmp_path / "theirs" / "experiment" / "nice.yaml"
        file.write_text(f"# @package _global_\n{content}\n")
        return file.parents[1]

    return write


def test_the_marker_is_made_by_what_is_named_here(tmp_path):
    """Or the other tests here would pass whatever is let through: without our check Hydra makes it."""
    code = f"from hydra.utils import instantiate; import yaml; instantiate(yaml.safe_load('{MAKES_THE_MARKER}'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "marker").is_file()


@pytest.mark.parametrize("arguments", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE)
def test_on_the_command_line_a_stranger_is_refused(refused, arguments):
    line = refused("train", *arguments)
    assert "may be named" in line


def test_in_evaluate_and_visualize_too(refused):
    for name in ("evaluate", "visualize"):
        assert "hydra.callbacks.x._target_=" in refused(name, f"+hydra.callbacks.x={MAKES_THE_MARKER}", "checkpoint=x")


@pytest.mark.parametrize("content", IN_A_FILE.values(), ids=IN_A_FILE)
def test_in_a_file_from_elsewhere_a_stranger_is_refused(refused, stranger, content):
    for chosen in (
        ["--config-dir", stranger(content), "+experiment=nice"],
        [f"hydra.searchpath=[file://{stranger(content)}]", "experiment=nice"],
        ["-m", f"hydra.searchpath=[file://{stranger(content)}]", "experiment=nice,demo"],
    ):
        refused("train", *[argument.replace("+experiment", "experiment") for argument in map(str, chosen)])


@pytest.mark.parametrize("content", IN_A_FILE.values(), ids=IN_A_FILE)
def test_in_a_whole_configuration_of_theirs_a_stranger_is_refused(refused, stranger, content):
    folder = stranger(content) / "experiment"
    refused("train", "--config-path", folder, "--config-name", "nice")


def test_an_experiment_that_names_nothing_new_is_let_in(start, stranger, tiny_model, tiny_reviews, tmp_path):
    content = "callbacks: {x: {_target_: pytorch_lightning.callbacks.Timer, duration: '00:00:10:00'}}\nseed: 3"
    tiny = [f"model.pretrained={tiny_model}", f"data.path={tiny_reviews}", "data.max_length=48", "trainer.devices=1"]
    process = start("train", "--config-dir", stranger(content), "experiment=nice", *tiny, "trainer.max_epochs=1")
    assert process.wait() == 0, process.output


PLACES_IN_A_CHECKPOINT = {
    "settings": ("bertlens",),
    "a part of the settings": ("bertlens", "model"),
    "the data's settings": ("bertlens", "reviews"),
    "the digests": ("bertlens", "sha256"),
    "hyperparameters": ("hyper_parameters",),
    "hyperparameters, deeper": ("hyper_parameters", "callbacks", "x"),
    "a callback's state": ("callbacks", "x"),
    "the loops": ("loops", "fit_loop"),
}


def test_a_checkpoint_that_names_an_object_is_refused(
    start, refused, amount, record, tiny_model, tiny_reviews, tmp_path
):
    tiny = [
        f"model.pretrained={tiny_model}",
        f"data.path={tiny_reviews}",
        "data.max_length=48",
        "trainer.devices=1",
        "trainer.max_epochs=1",
    ]
    process = start("train", *tiny, "hydra.run.dir=run")
    assert process.wait() == 0, process.output
    file, commands = tmp_path / "theirs.ckpt", 0
    for keys in PLACES_IN_A_CHECKPOINT.values():
        raw = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        node = raw
        for key in keys:
            node = node.setdefault(key, {})
        node["_target_"], node["filename"], node["mode"] = "gzip.GzipFile", str(tmp_path / "marker"), "w"
        torch.save(raw, file)
        for name, arguments in {
            "evaluate": [f"checkpoint={file}"],
            "visualize": [f"checkpoint={file}", "text=fine"],
            "train": [*tiny, f"checkpoint={file}", "trainer.max_epochs=2"],
        }.items():
            line = refused(name, *arguments)
            assert f"{'.'.join(keys)}._target_='gzip.GzipFile'" in line
            assert str(file) in line
            commands += 1
    record("a checkpoint that names an object", files=len(PLACES_IN_A_CHECKPOINT), commands=commands, objects_made=0)
