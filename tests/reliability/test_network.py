"""Where everything is local nothing is asked of a network: no connection is tried, no name looked up, none needed."""

import csv
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[2]
PROCESSES = REPOSITORY / "tests" / "processes"
NO_INTERFACES = ["unshare", "--map-root-user", "--net"]
COMMIT = "0123456789abcdef" * 2 + "01234567"
OTHER_COMMIT = "f" * 40


@pytest.fixture
def attempts(tmp_path):
    """What was tried: a line each."""
    log = tmp_path / "attempts.txt"
    return lambda: log.read_text().splitlines() if log.is_file() else []


@pytest.fixture
def guarded(start, tmp_path):
    """`start` with the socket guard in the process, its exit status and output checked."""

    def run(name, *arguments, status=0, attributes=None):
        guard = {"socket_guard.LOG": str(tmp_path / "attempts.txt")}
        process = start(name, *arguments, attributes=guard | (attributes or {}))
        assert process.wait() == status, process.output
        return process.output

    return run


@pytest.fixture
def tiny(tmp_path):
    return [
        f"cache_dir={tmp_path / 'cache'}",
        "hydra.run.dir=run",
        "overwrite=true",
        "data.max_length=48",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
    ]


def whole_command(name, *arguments, folder, prefix=()):
    """An entry point as a user types it, with the guard in it and in whatever it starts."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text("import socket_guard\n")
    shutil.copy(PROCESSES / "socket_guard.py", folder / "site")
    paths = [str(folder / "site"), str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "OMP_"))}
    done = subprocess.run(
        [*prefix, sys.executable, str(REPOSITORY / f"{name}.py"), *arguments],
        cwd=folder,
        env=kept
        | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "SOCKET_GUARD_LOG": str(folder / "attempts.txt"),
            "HF_HOME": str(folder / "huggingface"),
        },
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_the_guard_sees_and_refuses(tmp_path):
    """Or the other tests here would pass whatever is tried."""
    code = """
import socket, urllib.request
import socket_guard
for action in (
    lambda: socket.create_connection(("192.0.2.1", 80)),
    lambda: socket.socket().connect(("192.0.2.1", 80)),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: urllib.request.urlopen("http://example.org"),
):
    try:
        action()
    except OSError:
        print("refused")
"""
    environ = os.environ | {"SOCKET_GUARD_LOG": str(tmp_path / "log"), "PYTHONPATH": str(PROCESSES)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * 4, done.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_a_model_that_is_not_here_is_asked_for_and_the_guard_sees_it(guarded, attempts, tiny_reviews, tiny):
    output = guarded("train", *tiny, "model.pretrained=someone/some-model", f"data.path={tiny_reviews}", status=1)
    assert "neither on this machine nor available from the hub" in output
    assert attempts()


def no_interfaces():
    """Whether this machine lets a user start a process that has no network, not even the machine itself."""
    try:
        return subprocess.run([*NO_INTERFACES, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.integration
@pytest.mark.slow
def test_the_demo_as_typed_tries_no_connection_and_needs_none(amount, attempts, record, tmp_path, minilm_folder):
    """Train, report, evaluate and visualize, with the guard and, where it can be had, in a machine without network."""
    small = ["data.num_demo_reviews=60", "trainer.max_epochs=1", "trainer.enable_progress_bar=false"]
    prefix = NO_INTERFACES if no_interfaces() else []
    whole_command("train", "experiment=demo", *amount(small, []), folder=tmp_path, prefix=prefix)
    run = next((tmp_path / "outputs" / "train").glob("*/*"))
    assert (run / "report.html").is_file()
    for name in ("evaluate", "visualize"):
        whole_command(name, f"checkpoint={run / 'checkpoints' / 'best.ckpt'}", folder=tmp_path, prefix=prefix)
    assert attempts() == []
    record(
        "the demo, its evaluation and its report with every connection refused",
        runs=3,
        connection_attempts=0,
        network_interfaces="none" if prefix else "as they are",
    )


def test_local_paths_and_own_files_try_no_connection(
    amount, guarded, attempts, record, tiny, tiny_model, tiny_reviews, tmp_path
):
    columns = pq.read_table(tiny_reviews / "train.parquet").to_pydict()
    with (tmp_path / "own.csv").open("w") as file:
        csv.writer(file).writerows([("text", "label"), *zip(columns["text"], columns["label"], strict=True)])
    sources = {
        "parquet": [f"data.path={tiny_reviews}"],
        "csv": ["data=files", f"data.train_file={tmp_path / 'own.csv'}", f"data.test_file={tmp_path / 'own.csv'}"],
        "demo": ["data=demo", "data.num_demo_reviews=100", "report=true"],
    }
    sweep = ["optimizer.lr=1e-4,1e-3", "hydra.sweep.dir=sweep"]
    runs = 0
    for _ in range(amount(1, 10)):
        for chosen in sources.values():
            guarded("train", *tiny, f"model.pretrained={tiny_model}", *chosen)
            guarded("evaluate", "checkpoint=run/checkpoints/best.ckpt", f"cache_dir={tmp_path / 'cache'}")
            runs += 2
        guarded("visualize", "checkpoint=run/checkpoints/best.ckpt", "count=2", f"cache_dir={tmp_path / 'cache'}")
        guarded("train", "-m", *tiny, f"model.pretrained={tiny_model}", *sources["parquet"], *sweep)
        runs += 2
    assert attempts() == []
    record("local folders, own files, the demo and a sweep", runs=runs, connection_attempts=0)


def cached(cache, kind, name, commit, files):
    """A repository as the hub's cache keeps it."""
    folder = cache / f"{kind}s--{name.replace('/', '--')}"
    for path, source in files.items():
        (folder / "snapshots" / commit / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "blobs").mkdir(exist_ok=True)
        blob = folder / "blobs" / f"{commit[:4]}-{path.replace('/', '-')}"
        shutil.copy(source, blob)
        (folder / "snapshots" / commit / path).symlink_to(blob)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, tiny_model, tiny_reviews):
    """Overrides for a model and reviews by their names on the hub, and a cache that has them at their revisions."""
    cache = tmp_path / "hub"
    cached(cache, "model", "someone/tiny", COMMIT, {path.name: path for path in tiny_model.iterdir()})
    reviews = {
        f"plain_text/{split}-00000-of-00001.parquet": tiny_reviews / f"{split}.parquet" for split in ("train", "test")
    }
    cached(cache, "dataset", "someone/reviews", COMMIT, reviews)
    digests = ", ".join(
        f"{name}: {hashlib.sha256((tiny_model / name).read_bytes()).hexdigest()}"
        for name in ("model.safetensors", "vocab.txt")
    )
    attributes = {
        "huggingface_hub.constants.HF_HUB_CACHE": str(cache),
        "huggingface_hub.file_download.HF_HUB_CACHE": str(cache),
        "datasets.config.HF_DATASETS_CACHE": str(tmp_path / "prepared"),
    }
    overrides = [
        "model.pretrained=someone/tiny",
        "model.published.name=someone/tiny",
        f"model.published.revision={COMMIT}",
        f"model.published.sha256={{{digests}}}",
        "data.hub_name=someone/reviews",
        f"data.hub_revision={COMMIT}",
    ]
    return overrides, attributes


OFFLINE = {"huggingface_hub.constants.HF_HUB_OFFLINE": True, "datasets.config.HF_HUB_OFFLINE": True}


def test_the_hubs_cache_at_the_pinned_revisions_is_read_without_a_request(amount, guarded, attempts, record, tiny, hub):
    overrides, attributes = hub
    runs = 0
    for _ in range(amount(1, 10)):
        for offline in ({}, OFFLINE):
            guarded("train", *tiny, *overrides, attributes=attributes | offline)
            guarded("evaluate", "checkpoint=run/checkpoints/best.ckpt", attributes=attributes | offline)
            runs += 2
    assert attempts() == []
    record("model and reviews from the hub's cache", runs=runs, connection_attempts=0)


@pytest.mark.parametrize("key", ["data.hub_revision", "model.published.revision"])
def test_offline_another_revision_is_refused_without_a_request(guarded, attempts, tiny, hub, key):
    overrides, attributes = hub
    output = guarded("train", *tiny, *overrides, f"{key}={OTHER_COMMIT}", status=1, attributes=attributes | OFFLINE)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "experiment=demo" in errors[0]
    assert attempts() == []
