"""Every writer, stopped at every operation: by the process's death, by the loss of power, by a full or closed disk.

A writer is run once undisturbed while its operations are noted. Then it is run again and again: killed before each of
them, in a process of its own, and before each of them the power is taken away, which leaves of a file what was flushed
and of a folder the names that were.
"""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from bertlens.data import tokenizer as tokenizer_module
from bertlens.data.batching import TokenRows
from bertlens.data.settings import DataSettings
from bertlens.data.tokenizer import ReviewTokenizer, WordPieces, tokenize
from bertlens.errors import InputError
from bertlens.explanations.explainer import ExplainedReview
from bertlens.explanations.methods import attention_rows
from bertlens.explanations.selection import Selection
from bertlens.features import shards, store
from bertlens.features.settings import FeatureSettings
from bertlens.features.store import FeatureStore
from bertlens.model.classifier import ReviewClassifier
from bertlens.report.render import render_report
from bertlens.run.folder import Run, write_predictions
from bertlens.run.sweep import write_table
from bertlens.system import files
from bertlens.system.files import UNFINISHED, DiskFile, atomic_write
from bertlens.training.checkpoint_io import AtomicCheckpointIO

matplotlib.use("agg")

NOBODY = 65534


# What is written, in two versions: 0 is the earlier file, 1 the new one.


def write_checkpoint(folder: Path, version: int) -> None:
    tensors = {f"layer.{index}": torch.full((300, 40), float(version)) for index in range(4)}
    AtomicCheckpointIO().save_checkpoint({"state_dict": tensors, "step": version}, folder / "last.ckpt")


def write_metrics_file(folder: Path, version: int) -> None:
    Run(folder).write_metrics({"test/accuracy": 0.5 + version / 4}, seed=version)


def write_predictions_file(folder: Path, version: int) -> None:
    labels = torch.arange(200) % 2
    probabilities = torch.nn.functional.one_hot((labels + version) % 2, 2).double()
    texts = [f"review {index} of version {version}" for index in range(200)]
    write_predictions(folder / "predictions.parquet", texts, labels, probabilities, ["negative", "positive"])


def write_figure(folder: Path, version: int) -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, version, 2])
    Run(folder).write_figures({"roc": figure})


def write_report_file(folder: Path, version: int) -> None:
    reviews = (
        ExplainedReview(
            index=index,
            text="good film",
            label=version,
            probabilities=np.array([0.25, 0.75], np.float32),
            contrast=0,
            ids=[2, 5, 6, 3],
            tokens=["[CLS]", "good", "film", "[SEP]"],
            offsets=[(0, 0), (0, 4), (5, 9), (0, 0)],
            rows=attention_rows(3, np.full((2, 4), 0.25, np.float32)),
        )
        for index in range(3)
    )
    render_report(
        reviews,
        label_names=["negative", "positive"],
        selection=Selection(sentence="the first 3 of 3 reviews"),
        title="t",
        facts={},
        path=folder / "report.html",
    )


def write_error_file(folder: Path, version: int) -> None:
    Run(folder / "job").write_error(f"data.path={version}: no such folder")


def write_jobs(folder: Path, version: int) -> None:
    for job in range(2):
        contents = {
            ".hydra/overrides.yaml": f"- seed={2 * version + job}\n",
            "metrics.json": json.dumps({"metrics": {"val/accuracy": 0.5 + version / 4}, "seconds": {"fit": 1.0}}),
        }
        for name, content in contents.items():
            path = folder / str(job) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_text() != content:
                path.write_text(content)


def write_sweep(folder: Path, version: int) -> None:
    write_jobs(folder, version)
    with contextlib.redirect_stdout(io.StringIO()):
        write_table(folder)


FILES = {
    "last.ckpt": write_checkpoint,
    "metrics.json": write_metrics_file,
    "predictions.parquet": write_predictions_file,
    "roc.png": write_figure,
    "report.html": write_report_file,
    "job.error.txt": write_error_file,
    "sweep.csv": write_sweep,
}
NAMES = sorted(FILES)
# drawing a figure again and again takes long
NAMES_AT_EVERY_OPERATION = [pytest.param(name, marks=pytest.mark.slow) if name == "roc.png" else name for name in NAMES]


# Operations, and the disk under them.


@dataclass
class Operation:
    kind: str  # write, truncate, sync, sync folder, replace, rename, unlink
    path: Path
    before: "Disk"  # what was there just before it


@dataclass
class Disk:
    """A folder's files as they are and as far as they are durable; a folder is its names, a file its bytes."""

    now: dict[str, int]  # path -> inode, of files and folders
    bytes_now: dict[int, bytes]
    durable_names: dict[int, dict[str, int]]  # inode of a folder -> name -> inode
    durable_bytes: dict[int, bytes]
    root: int

    def after_power_loss(self, *, names_survive: bool, rest: Callable[[bytes], bytes]) -> dict[str, bytes | None]:
        """Path -> bytes, None for a folder. `rest` makes of a file that was not flushed what is left of it."""
        found: dict[str, bytes | None] = {}
        if names_survive:
            for path, inode in self.now.items():
                found[path] = self._content(inode, rest) if inode in self.bytes_now else None
            return found
        waiting = [("", self.root)]
        while waiting:
            prefix, folder = waiting.pop()
            for name, inode in self.durable_names.get(folder, {}).items():
                is_folder = inode not in self.bytes_now and inode in self.durable_names
                found[prefix + name] = None if is_folder else self._content(inode, rest)
                if is_folder:
                    waiting.append((f"{prefix}{name}/", inode))
        return found

    def _content(self, inode: int, rest: Callable[[bytes], bytes]) -> bytes:
        durable, now = self.durable_bytes.get(inode, b""), self.bytes_now.get(inode, b"")
        return durable if durable == now else durable + rest(now[len(durable) :])


@dataclass
class Watch:
    """Notes what is done to the files of a folder; dies before operation `kill_at`."""

    folder: Path
    kill_at: int | None = None
    half: bool = False  # die after half of the write instead of before it
    keep_disks: bool = True
    operations: list[Operation] = field(default_factory=list)
    durable_names: dict[int, dict[str, int]] = field(default_factory=dict)
    durable_bytes: dict[int, bytes] = field(default_factory=dict)

    def __enter__(self) -> "Watch":
        if self.keep_disks:
            self._assume_all_durable()
        self._stack = contextlib.ExitStack()
        self._replace(DiskFile, "write", "write", self._path_of_file)
        self._replace(DiskFile, "truncate", "truncate", self._path_of_file)
        self._replace(os, "fsync", "sync", self._path_of_descriptor)
        for name in ("replace", "rename", "unlink", "rmdir"):
            self._replace(os, name, name, lambda path, *rest, **options: Path(path))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _replace(self, owner: object, name: str, kind: str, path_of: Callable[..., Path]) -> None:
        original = getattr(owner, name)

        def watched(*arguments: object, **options: object) -> object:
            path = path_of(*arguments)
            if not path.is_relative_to(self.folder):
                return original(*arguments, **options)
            is_folder = kind == "sync" and path.is_dir()
            self._note("sync folder" if is_folder else kind, path, lambda: self._half(original, kind, arguments))
            result = original(*arguments, **options)
            if kind == "sync" and self.keep_disks:
                self._made_durable(path)
            return result

        setattr(owner, name, watched)
        self._stack.callback(setattr, owner, name, original)

    def _note(self, kind: str, path: Path, half: Callable[[], None]) -> None:
        if len(self.operations) == self.kill_at:
            if self.half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        disk = self.disk() if self.keep_disks else Disk({}, {}, {}, {}, 0)
        self.operations.append(Operation(kind, path.relative_to(self.folder), disk))

    def _half(self, original: Callable[..., object], kind: str, arguments: tuple) -> None:
        if kind == "write":
            original(arguments[0], memoryview(arguments[1]).cast("B")[: len(arguments[1]) // 2])

    def _path_of_file(self, file: DiskFile, *rest: object) -> Path:
        return self._path_of_descriptor(file.fileno())

    @staticmethod
    def _path_of_descriptor(descriptor: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))

    def disk(self) -> Disk:
        paths = {str(path.relative_to(self.folder)): path for path in self.folder.rglob("*")}
        inodes = {name: path.stat().st_ino for name, path in paths.items()}
        contents = {inodes[name]: path.read_bytes() for name, path in paths.items() if path.is_file()}
        names = {folder: dict(children) for folder, children in self.durable_names.items()}
        return Disk(inodes, contents, names, dict(self.durable_bytes), self.folder.stat().st_ino)

    def _assume_all_durable(self) -> None:
        for path in [self.folder, *self.folder.rglob("*")]:
            self._made_durable(path)

    def _made_durable(self, path: Path) -> None:
        inode = path.stat().st_ino
        if path.is_dir():
            self.durable_names[inode] = {child.name: child.stat().st_ino for child in path.iterdir()}
            # that a folder is there says nothing of what is in it
            for child in path.iterdir():
                if child.is_dir():
                    self.durable_names.setdefault(child.stat().st_ino, {})
        else:
            self.durable_bytes[inode] = path.read_bytes()


def killed_in_a_child(action: Callable[[], None], watch: Watch) -> bool:
    """Whether the child was killed on the way; if not, it was done before its operation came."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            torch.set_num_threads(1)  # threads do not survive a fork, and none are needed
            with watch:
                action()
            status = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)  # no cleanup of this process's: it is the test's
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def restore_disk(folder: Path, content: dict[str, bytes | None]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for path, data in sorted(content.items()):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).write_bytes(data)


REMAINS = {
    "nothing": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "all": lambda data: data,
}


def power_losses(operations: list[Operation], end: Disk) -> Iterator[dict[str, bytes | None]]:
    """What may be found after the power went before each operation, and after the last."""
    for disk in [*(operation.before for operation in operations), end]:
        for names_survive in (True, False):
            for rest in REMAINS.values():
                yield disk.after_power_loss(names_survive=names_survive, rest=rest)


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a child writes must not differ because it computes with fewer threads."""
    monkeypatch.setattr("bertlens.run.folder.environment", lambda: {"machine": "this one"})


@pytest.fixture
def both(tmp_path: Path) -> Callable[[str], tuple[bytes, bytes]]:
    """The earlier and the new content of a file, each written undisturbed."""

    def contents(name: str) -> tuple[bytes, bytes]:
        written = []
        for version in (0, 1):
            folder = tmp_path / f"undisturbed-{version}"
            folder.mkdir()
            FILES[name](folder, version)
            written.append((folder / name).read_bytes())
        assert written[0] != written[1]
        return written[0], written[1]

    return contents


def prepared(folder: Path, name: str) -> None:
    """A folder with the earlier file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    FILES[name](folder, 0)


# Single files.


@pytest.mark.parametrize("name", NAMES)
def test_all_is_written_before_the_flush_the_move_and_the_flush_of_the_folder(tmp_path, name):
    prepared(tmp_path / "run", name)
    with Watch(tmp_path / "run") as watch:
        FILES[name](tmp_path / "run", 1)
    kinds = [operation.kind for operation in watch.operations]
    assert kinds == ["write"] * kinds.count("write") + ["sync", "replace", "sync folder"]
    assert "write" in kinds
    temporary = {str(operation.path) for operation in watch.operations[:-1]}
    assert len(temporary) == 1
    assert temporary.pop().startswith(f".{name}.")


@pytest.mark.parametrize("name", NAMES_AT_EVERY_OPERATION)
def test_a_writer_killed_anywhere_leaves_the_earlier_file_or_the_new_one(tmp_path, name, both, record):
    earlier, new = both(name)
    folder, kills = tmp_path / "run", 0
    for half in (False, True):
        for kill_at in range(1000):
            prepared(folder, name)
            whole = names_in(folder)
            watch = Watch(folder, kill_at=kill_at, half=half, keep_disks=False)
            if not killed_in_a_child(lambda: FILES[name](folder, 1), watch):
                break
            kills += 1
            assert (folder / name).read_bytes() in (earlier, new)
            left = set(names_in(folder)) - set(whole)
            assert all(path.startswith(f".{name}.") and path.endswith(UNFINISHED) for path in left)
            FILES[name](folder, 1)  # the next start
            assert (folder / name).read_bytes() == new
            assert names_in(folder) == whole
        assert kill_at >= 4
    record(f"{name}: killed at every operation", kills=kills, damaged=0)


@pytest.mark.parametrize("name", NAMES_AT_EVERY_OPERATION)
def test_the_power_lost_anywhere_leaves_the_earlier_file_or_the_new_one(tmp_path, name, both, record):
    earlier, new = both(name)
    folder = tmp_path / "run"
    prepared(folder, name)
    whole = names_in(folder)
    with Watch(folder) as watch:
        FILES[name](folder, 1)
    end = watch.disk()
    losses, found = 0, set()
    for content in power_losses(watch.operations, end):
        restore_disk(folder, content)
        losses += 1
        found.add((folder / name).read_bytes())
        FILES[name](folder, 1)
        assert (folder / name).read_bytes() == new
        assert names_in(folder) == whole
    assert found == {earlier, new}
    assert end.after_power_loss(names_survive=False, rest=REMAINS["nothing"])[name] == new  # what was promised
    record(f"{name}: power lost at every operation", losses=losses, damaged=0)


def test_what_is_still_being_written_is_not_taken_for_abandoned(tmp_path):
    path = tmp_path / "metrics.json"
    with atomic_write(path) as slow:
        slow.write(b"slow")
        with atomic_write(path) as quick:
            quick.write(b"quick")
        assert path.read_bytes() == b"quick"
    assert path.read_bytes() == b"slow"
    assert names_in(tmp_path) == ["metrics.json"]


# The caches.


@dataclass
class Cache:
    """A cache of something computed: `make` finds or computes it, and must always return the same."""

    make: Callable[[Path], bytes]
    is_litter: Callable[[str], bool]


@pytest.fixture
def feature_store(tiny_config, monkeypatch) -> Cache:
    monkeypatch.setattr(store, "SHARD_BYTES", 10_000)  # two shards
    monkeypatch.setattr(store.secrets, "randbelow", lambda below: 0)  # with the same reviews in each attempt
    monkeypatch.setattr(store, "DISK_RESERVE", 0)
    random = np.random.default_rng(0)
    lengths = random.integers(4, 30, 8)
    ids = random.integers(5, tiny_config.vocab_size, lengths.sum()).astype(np.int32)
    tokens = TokenRows(
        WordPieces(ids, np.concatenate([[0], np.cumsum(lengths)]), pad_id=0), [0] * 8, pad_to=None, mask_padding=True
    )
    torch.manual_seed(0)
    classifier = ReviewClassifier(tiny_config, num_classes=2).eval()

    def make(folder: Path) -> bytes:
        shards.open_states.cache_clear()
        shards.read_index.cache_clear()
        made = FeatureStore(folder, classifier.prefix, settings=FeatureSettings(), tokens_per_batch=128)

        def read() -> bytes:
            return b"".join(rows[[row]].inputs.numpy().tobytes() for row in range(len(rows)))

        rows = made.find(tokens)
        before = read()
        made.build(rows, name="train")
        assert rows.num_missing == 0
        assert read() == before
        return before

    return Cache(make, lambda path: "/." in f"/{path}")


@pytest.fixture
def word_pieces(tiny_vocabulary, monkeypatch) -> Cache:
    monkeypatch.setattr(tokenizer_module, "TEXTS_PER_BATCH", 16)
    reviews = datasets.Dataset.from_dict({"text": [f"a good film {index}" for index in range(64)]})
    tokenizer = ReviewTokenizer(tiny_vocabulary, DataSettings(lowercase=True))

    def make(folder: Path) -> bytes:
        pieces = tokenize(reviews, tokenizer, folder, split="train")
        return pieces.ids.tobytes() + pieces.starts.tobytes()

    return Cache(make, lambda path: path.startswith("."))


@pytest.fixture(params=["feature_store", "word_pieces"])
def cache(request: pytest.FixtureRequest) -> Cache:
    torch.set_num_threads(1)
    made: Cache = request.getfixturevalue(request.param)
    return made


def test_a_cache_killed_anywhere_is_made_whole_by_the_next_start(tmp_path, cache, record):
    folder, kills = tmp_path / "cache", 0
    expected = cache.make(folder)
    whole = names_in(folder)
    for half in (False, True):
        for kill_at in range(1000):
            shutil.rmtree(folder)
            folder.mkdir()
            if not killed_in_a_child(
                lambda: cache.make(folder), Watch(folder, kill_at=kill_at, half=half, keep_disks=False)
            ):
                break
            kills += 1
            assert cache.make(folder) == expected
            assert names_in(folder) == whole
        assert kill_at >= 8
    record("a cache killed at every operation", kills=kills, damaged=0)


def test_a_cache_after_loss_of_power_anywhere_is_right(tmp_path, cache, record):
    folder = tmp_path / "cache"
    folder.mkdir()
    with Watch(folder) as watch:
        expected = cache.make(folder)
    end = watch.disk()
    assert not any(map(cache.is_litter, names_in(folder)))
    whole, losses = names_in(folder), 0
    for content in power_losses(watch.operations, end):
        restore_disk(folder, content)
        losses += 1
        assert cache.make(folder) == expected
        assert [path for path in names_in(folder) if not path.endswith(".lock")] == [
            path for path in whole if not path.endswith(".lock")
        ]
    after = end.after_power_loss(names_survive=False, rest=REMAINS["nothing"])
    assert {path for path in whole if not path.endswith(".lock")} <= after.keys()  # durable when it returned
    record("a cache after loss of power at every operation", losses=losses, damaged=0)


# A disk that does not take it.


def as_nobody(action: Callable[[], None]) -> str:
    """What `action` ends in when a user without rights runs it; root may do everything."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            try:
                action()
                os.write(writing, b"no error")
            except BaseException as error:
                os.write(writing, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(pid, 0)
    return said


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """No file grows beyond so many bytes: the kernel's own refusal (Python ignores the signal that goes with it)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, step: str, number: int, at: int) -> Iterator[None]:
    """The `at`-th such step fails with this error number."""
    owner, name = {"write": (DiskFile, "write"), "sync": (os, "fsync"), "replace": (os, "replace")}[step]
    original, calls = getattr(owner, name), []

    def step_that_fails(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) <= at:
            return original(*arguments, **options)
        # the kernel's refusal of a move names the file, that of a write does not
        error = OSError(number, os.strerror(number), *(map(str, arguments[:1]) if step == "replace" else ()))
        if step == "write":
            arguments[0].failure = error  # as the method that this stands in for does
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, step_that_fails)
        yield


@contextlib.contextmanager
def always_full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel's own full disk under every temporary file."""

    def open_full(path: Path, mode: str) -> DiskFile:
        disk = DiskFile(path, mode)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, disk.fileno())
        os.close(full)
        return disk

    with monkeypatch.context() as patch:
        patch.setattr(files, "DiskFile", open_full)
        yield


REFUSALS = {
    "file too large": (errno.EFBIG, lambda patch: largest_file(100)),
    "no space": (errno.ENOSPC, always_full),
    "no space at the second write": (errno.ENOSPC, lambda patch: failing(patch, "write", errno.ENOSPC, 1)),
    "no space at the flush": (errno.ENOSPC, lambda patch: failing(patch, "sync", errno.ENOSPC, 0)),
    "over quota at the move": (errno.EDQUOT, lambda patch: failing(patch, "replace", errno.EDQUOT, 0)),
    "broken disk at the flush": (errno.EIO, lambda patch: failing(patch, "sync", errno.EIO, 0)),
}


CASES = [
    (name, refusal)
    for name in NAMES
    for refusal in REFUSALS
    if not (refusal == "file too large" and name in ("job.error.txt", "sweep.csv"))  # they are small
    and not (refusal == "no space at the second write" and name != "last.ckpt")  # the others are one write
]


@pytest.mark.parametrize(("name", "refusal"), CASES)
def test_a_disk_that_refuses_is_named_and_the_earlier_file_stays(tmp_path, name, refusal, monkeypatch):
    prepared(tmp_path / "run", name)
    if name == "sweep.csv":  # what its jobs wrote is not its own
        write_jobs(tmp_path / "run", 1)
    path = tmp_path / "run" / name
    earlier, whole = path.read_bytes(), names_in(path.parent)
    number, refusing = REFUSALS[refusal]
    with pytest.raises(OSError) as caught, refusing(monkeypatch):
        FILES[name](path.parent, 1)
    assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert caught.value.strerror == os.strerror(number)
    assert path.read_bytes() == earlier
    assert names_in(path.parent) == whole


@pytest.fixture
def everyones(tmp_path: Path) -> Iterator[Path]:
    """A folder that a user without rights can get to; pytest's own is its user's only."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_read_only_is_named_and_the_earlier_file_stays(everyones, name):
    folder = everyones / "run"
    prepared(folder, name)
    if name == "sweep.csv":
        write_jobs(folder, 1)
    earlier, whole = (folder / name).read_bytes(), names_in(folder)
    folder.chmod(0o555)
    said = as_nobody(lambda: FILES[name](folder, 1))
    folder.chmod(0o755)
    assert said == f"PermissionError: [Errno 13] Permission denied: '{folder / name}'"
    assert (folder / name).read_bytes() == earlier
    assert names_in(folder) == whole


@pytest.mark.parametrize("temporary", ["another file system", "/nowhere", "/dev/full", "a read-only folder"])
def test_the_folder_for_temporary_files_has_no_say(tmp_path, temporary, monkeypatch):
    """Only a move within a file system is atomic: the temporary file lies beside its place."""
    if temporary == "another file system":
        temporary = "/dev/shm" if os.path.ismount("/dev/shm") else "/proc"
    if temporary == "a read-only folder":
        temporary = str(tmp_path / "read-only")
        (tmp_path / "read-only").mkdir(mode=0o555)
    monkeypatch.setenv("TMPDIR", temporary)
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in NAMES:
        prepared(tmp_path / name, name)
        FILES[name](tmp_path / name, 1)


def test_a_store_on_a_full_disk_leaves_nothing_and_says_where(tmp_path, feature_store):
    with pytest.raises(InputError, match=r"\.safetensors: File too large: make room"), largest_file(4000):
        feature_store.make(tmp_path)
    assert [path.partition("/")[2] for path in names_in(tmp_path) if not path.endswith(".lock")] == ["space.json"]
    feature_store.make(tmp_path)


def train(*more: str) -> list[str]:
    return [
        "hydra.run.dir=run",
        "cache_dir=cache",
        "data.max_length=48",
        "optimizer.lr=1e-3",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        *more,
    ]


@pytest.fixture
def tiny(tiny_model, tiny_reviews) -> list[str]:
    return [f"model.pretrained={tiny_model}", f"data.path={tiny_reviews}"]


def only_line(process, path: str, reason: str) -> None:
    """One line that names the file and the reason, and nothing of the code."""
    assert process.wait() == 1, process.output
    errors = [line for line in process.output.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in process.output
    assert len(errors) == 1
    assert errors[0].endswith(f"{path}: {reason}"), errors


def test_a_run_whose_checkpoint_does_not_fit_ends_in_one_line(start, tiny, tmp_path):
    process = start("train", *train("features.cache=off", *tiny))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    only_line(process, str(tmp_path / "run/checkpoints/last.ckpt"), "File too large")
    assert names_in(tmp_path / "run" / "checkpoints") == []


def test_a_run_whose_store_does_not_fit_goes_on_without_it(start, tiny, tmp_path):
    process = start("train", *train(*tiny, "trainer.max_epochs=2"))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    assert process.wait() == 0, process.output
    assert ".safetensors: File too large" in process.output
    assert list((tmp_path / "cache" / "features").rglob("*.unfinished")) == []


def test_a_folder_that_nothing_can_be_written_to_is_named(start, tiny, tmp_path):
    (tmp_path / "taken").write_text("a file")
    process = start("train", *train("cache_dir=taken", *tiny))
    only_line(process, "cache_dir='taken'", "a file, not a folder")


def test_a_sweep_on_a_full_disk_ends_in_a_table(start, tiny, tmp_path):
    process = start("train", "-m", *train("seed=1,2", "hydra.sweep.dir=sweep", "features.cache=off", *tiny))
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (60_000, 60_000))
    assert process.wait() == 1
    assert "Traceback" not in process.output
    assert (tmp_path / "sweep" / "seed-2.error.txt").read_text().endswith("last.ckpt: File too large\n")
    assert (tmp_path / "sweep" / "sweep.csv").read_text().count("File too large") == 2
