"""Files that are whole or not there: written beside their place, flushed, then moved over it."""

import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

UNFINISHED = ".unfinished"


class DiskFile(io.FileIO):
    """A file that remembers why it could not be written: what writes through it may report something else.

    `torch.save` makes a full disk an assertion of its archive writer.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        with self._remembering():
            return super().write(data)

    def sync(self) -> None:
        """Make what was written so far durable."""
        with self._remembering():
            os.fsync(self.fileno())

    @contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to; it takes `path`'s place when the block ends well, and vanishes when it does not.

    The temporary file lies in the same folder, because only a move within a file system is atomic. What a killed
    writer left there, the next writer of the same file removes. Raises `OSError` that names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _temporary_for(path)
    held = os.dup(descriptor)  # the lock is held until the file has moved
    disk = DiskFile(descriptor, "wb")
    try:
        with naming(path, disk):
            with _buffered(disk, mode) as file:
                yield file
                file.flush()
                umask = os.umask(0)
                os.umask(umask)
                temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
                disk.sync()
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(held)
    with naming(path):
        sync_folder(path.parent)


@contextmanager
def append(path: Path, *, keep: int) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """A file to write to after its first `keep` bytes, and what makes durable all that was written so far.

    For a file that a record beside it says how much of is whole. Raises `OSError` that names `path`.
    """
    with naming(path):
        disk = DiskFile(path, "ab")
    with naming(path, disk), _buffered(disk, "wb") as file:
        disk.truncate(keep)

        def sync() -> None:
            file.flush()
            disk.sync()

        yield file, sync


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; where the system has no such call, there is nothing to do."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(path: Path, disk: DiskFile | None = None) -> Iterator[None]:
    """Errors of writing a file, by its name: those of a write or a flush have none, others that of the temporary file.

    With `disk`, only what went wrong on it: other errors are the caller's own.
    """
    try:
        yield
    except Exception as error:
        failure = disk.failure if disk is not None and disk.failure is not None else error
        if not isinstance(failure, OSError) or failure.errno is None:
            raise
        is_nameless = failure.filename is None and (disk is None or failure is disk.failure)
        if not is_nameless and not str(failure.filename).endswith(UNFINISHED):
            raise
        raise OSError(failure.errno, failure.strerror, str(path)) from error


def _buffered(disk: DiskFile, mode: str) -> IO[Any]:
    binary = io.BufferedWriter(disk)
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8")


def _temporary_for(path: Path) -> tuple[int, Path]:
    """A new file beside `path`, locked while it is written: so a later writer can tell it from an abandoned one."""
    prefix = f".{path.name[:100]}."
    _remove_abandoned(path.parent, prefix)
    while True:
        descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=UNFINISHED, dir=path.parent)
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks: there nothing is taken for abandoned either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(name)
        os.close(descriptor)  # another writer took it for abandoned before it was locked


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove what killed writers left: the lock on a file ends with the process that held it."""
    if sys.platform == "win32":  # an open file cannot be removed there, and has no such lock
        return
    for left in folder.iterdir():
        if left.name.startswith(prefix) and left.name.endswith(UNFINISHED):
            with suppress(OSError):  # being written, gone meanwhile, or another user's
                descriptor = os.open(left, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    left.unlink()
                finally:
                    os.close(descriptor)
