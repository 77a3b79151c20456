"""Every command and every Python block of README.md, in its order and as a reader copies it, on small data."""

import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[1]
READMES = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in ("README.md", "README.ja.md")}
SMALL_DEMO = ["data.num_demo_reviews=60", "trainer.max_epochs=1"]
SMALL = {
    "experiment=balanced": "experiment=balanced model.trainable_layers=3",  # all that the model here has
    "path/to/imdb": "imdb",
    "PATH": "latest",
    "OTHER": "latest",
    "500,1000,2000": "50,100",
}

pytestmark = pytest.mark.slow


def blocks(language: str, readme: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)


def commands(readme: str) -> list[str]:
    """Return the commands of the blocks, then those of train.py within sentences."""
    lines = [line.split("  #")[0].strip() for block in blocks("sh", readme) for line in block.splitlines()]
    return list(dict.fromkeys([*lines, *re.findall(r"`(python train\.py [^`]+)`", readme.replace("\n", " "))]))


def small(command: list[str], tiny_run: list[str]) -> list[str]:
    """Return what makes a command small: a tiny model, and tiny reviews unless it names its own."""
    given = " ".join(command)
    if "train.py" not in given or "resume=" in given or "--help" in given:
        return []
    left_out = ["optimizer.lr=", "cache_dir=", *(["data.path="] if "data.train_file=" in given else [])]
    kept = [override for override in tiny_run if not override.startswith(tuple(left_out))]
    return [
        *kept,
        *(["hydra.launcher.n_jobs=2"] if "joblib" in given else []),
        *(["hydra.launcher.cpus_per_task=1"] if "slurm" in given else []),
    ]


def check(command: str, tiny_run: list[str]) -> None:
    """Run a command in the current folder, as the reader does in the repository."""
    folders = {"train": Path("outputs", "latest").resolve(), "sweeps": next(Path().glob("outputs/sweeps/*/*"), Path())}
    for name, folder in folders.items():
        command = command.replace(f"outputs/{name}/DATE/TIME", str(folder))
    for printed, instead in SMALL.items():
        command = command.replace(printed, instead)
    words = shlex.split(command)
    if "hydra/launcher=slurm" in words and shutil.which("srun") is None:
        return  # tests/reliability/test_slurm.py runs it where SLURM is
    match words:
        case ["python", script, *arguments]:
            run(sys.executable, str(REPOSITORY / script), *arguments, *small(words, tiny_run))
        case ["make", "demo"]:
            shown = ["make", "--no-print-directory", "-n", "demo"]  # also within `make slow`
            recipe = subprocess.run(shown, cwd=REPOSITORY, capture_output=True, text=True, check=True)
            _, script, *arguments = recipe.stdout.splitlines()[-1].split()
            run(sys.executable, str(REPOSITORY / script), *arguments, *SMALL_DEMO)
        case ["pip", "install", "-e", extra]:
            assert extra.strip(".[]") in (metadata("bertlens").get_all("Provides-Extra") or [])
        case [tensorboard, "--logdir", folder] if tensorboard.endswith("tensorboard"):
            assert runs_shown(folder)
        case _:
            pytest.fail(f"README.md has a command that nothing here runs: {command}")


def run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def runs_shown(folder: str) -> str:
    """Return the runs that TensorBoard shows of a folder; empty if none within a minute."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = free.getsockname()
    options = ["--logdir", folder, "--host", address[0], "--port", str(address[1])]
    board = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *options], stderr=subprocess.DEVNULL)
    try:
        for _ in range(60):
            time.sleep(1)
            try:
                with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/data/runs") as answer:
                    found = answer.read().decode().strip("[]\n")
            except OSError:  # it has not started
                continue
            if found:
                return found
        return ""
    finally:
        board.kill()
        board.wait()


@pytest.mark.parametrize("name", list(READMES))
def test_the_commands_and_the_python_run_as_printed(name, tiny_run, tiny_reviews, minilm_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    Path("imdb").symlink_to(tiny_reviews)
    for split in ("train", "test"):
        rows = pq.read_table(tiny_reviews / f"{split}.parquet").to_pydict()
        lines = [f"{text}\t{label}" for text, label in zip(rows["text"], rows["label"], strict=True)]
        Path(f"{split}.tsv").write_text("\n".join(["body\tverdict", *lines]) + "\n")
    Path("new.csv").write_text("id,text\n1,a great film\n2,\n")
    found = commands(READMES[name])
    assert len(found) >= {"README.md": 20, "README.ja.md": 7}[name]
    for command in found:
        check(command, tiny_run)
    assert Path("outputs", "latest", "report.html").is_file() or next(Path().glob("outputs/**/report.html")).is_file()
    for block in blocks("python", READMES[name]):
        run(sys.executable, "-c", block)
    assert name != "README.md" or Path("reason.html").stat().st_size > 10_000
