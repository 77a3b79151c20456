"""A checkpoint or a run's folder that came from a stranger: whatever it names as an object is neither made nor run.

A configuration is the user's own code, as everywhere in Hydra's world. Weights that hold code: test_bad_input.py.
"""

import subprocess
import sys

import pytest
import torch

# writes a file as soon as it is made, and is in no list of dangerous names
MAKES_THE_MARKER = "{_target_: gzip.GzipFile, filename: marker, mode: w}"

PLACES_IN_A_CHECKPOINT = {
    "settings": ("bertlens",),
    "a part of the settings": ("bertlens", "model"),
    "the data's settings": ("bertlens", "data"),
    "the settings that are compared": ("bertlens", "settings"),
    "the digests": ("bertlens", "sha256"),
    "hyperparameters": ("hyper_parameters",),
    "hyperparameters, deeper": ("hyper_parameters", "callbacks", "x"),
    "a callback's state": ("callbacks", "x"),
    "the loops": ("loops", "fit_loop"),
}


@pytest.fixture
def tiny(tiny_model, tiny_reviews):
    return [
        f"model.pretrained={tiny_model}",
        f"data.path={tiny_reviews}",
        "data.max_length=48",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "trainer.max_epochs=1",
    ]


@pytest.fixture
def checkpoint(run_task, tiny, tmp_path):
    run_task("train", tmp_path / "run", *tiny, f"cache_dir={tmp_path / 'outputs' / 'cache'}", "test=false")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


@pytest.fixture
def refused(start, tmp_path):
    """Return a function that starts an entry point and expects no marker, exit status 1 and one line that says why."""

    def run(name, *arguments):
        process = start(name, *arguments)
        assert process.wait() == 1, process.output
        assert not list(tmp_path.rglob("marker*")), process.output
        assert "Traceback" not in process.output
        lines = [line for line in process.output.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, process.output
        return lines[0]

    return run


def test_the_marker_is_made_by_what_is_named_here(tmp_path):
    """Otherwise the other tests here would pass whatever is let through: Hydra makes it."""
    code = f"from hydra.utils import instantiate; import yaml; instantiate(yaml.safe_load('{MAKES_THE_MARKER}'))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "marker").is_file()


def test_a_checkpoint_that_names_an_object_is_refused(refused, amount, record, tiny, checkpoint, tmp_path):
    file, commands = tmp_path / "theirs.ckpt", 0
    for keys in PLACES_IN_A_CHECKPOINT.values():
        raw = torch.load(checkpoint, weights_only=True)
        node = raw
        for key in keys:
            node = node.setdefault(key, {})
        node["_target_"], node["filename"], node["mode"] = "gzip.GzipFile", str(tmp_path / "marker"), "w"
        torch.save(raw, file)
        arguments = {
            "train": [*tiny, f"checkpoint={file}", "trainer.max_epochs=2"],
            "visualize": [f"checkpoint={file}", "text=fine"],
            "evaluate": [f"checkpoint={file}"],
        }
        for name in list(arguments)[: amount(1, 3)] if commands else arguments:
            line = refused(name, *arguments[name])
            assert f"{'.'.join(keys)}._target_='gzip.GzipFile'" in line
            assert str(file) in line
            commands += 1
    record("a checkpoint that names an object", files=len(PLACES_IN_A_CHECKPOINT), commands=commands, objects_made=0)


def test_the_configuration_in_a_strangers_run_folder_is_not_read(start, checkpoint, tmp_path):
    """`checkpoint=FOLDER` takes the weights alone; only `resume=FOLDER`, one's own run, reads what lies in .hydra/."""
    folder = checkpoint.parents[1]
    (folder / ".hydra" / "config.yaml").write_text(f"callbacks: {{x: {MAKES_THE_MARKER}}}\n")
    (folder / ".hydra" / "hydra.yaml").write_text(f"hydra: {{callbacks: {{x: {MAKES_THE_MARKER}}}}}\n")
    (folder / ".hydra" / "overrides.yaml").write_text(f"- +callbacks.x={MAKES_THE_MARKER}\n")
    for name, arguments in {"evaluate": [], "visualize": ["text=a good film"]}.items():
        process = start(name, f"checkpoint={folder}", *arguments)
        assert process.wait() == 0, process.output
    assert not list(tmp_path.rglob("marker*"))
