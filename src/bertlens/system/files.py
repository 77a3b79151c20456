"""Write files so that each is either whole or missing, also after a crash or a power loss.

A file is written under a temporary name beside its place, flushed to the disk, then moved over its place.
"""

import io
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from bertlens.errors import InputError

if sys.platform != "win32":
    import fcntl

UNFINISHED = ".unfinished"
ABANDONED_AFTER = 24 * 3600  # seconds, where a lock cannot tell


class DiskFile(io.FileIO):
    """A file that keeps the error of a failed write: `torch.save` reports a full disk as another kind of error."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


@contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that replaces `path` when the block ends, and is removed when the block raises.

    The temporary file lies in the same folder, because only a move within a file system is atomic. If a writer was
    killed, the next writer of the same file removes what it left. Raises `OSError` with `path`'s name.
    """
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk, temporary = _create_temporary(path)
    lock = os.dup(disk.fileno())  # closing the file would release the lock before the move
    try:
        with _naming(path, disk):
            binary = io.BufferedWriter(disk)
            with binary if "b" in mode else io.TextIOWrapper(binary, encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(disk.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(lock)
    with _naming(path):
        sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give an empty folder that becomes `path` when the block ends, and is removed when the block raises.

    Raises `InputError` if `path` is a file, or holds something and is not to be replaced.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"output={path}: a file, not a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(f"output={path}: not empty; give another folder, or replace it (overwrite=true)")
    new, old = (path.with_name(f".{path.name}.{kind}{UNFINISHED}") for kind in ("new", "old"))
    for left in (new, old):  # by a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        for file in new.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
        sync_folder(path.parent)
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk. Windows has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path, disk: DiskFile | None = None) -> Iterator[None]:
    """Re-raise an OSError with the target's path; the original has no path, or the temporary file's.

    If a write to `disk` failed, that error is raised, whatever was made of it.
    """
    try:
        yield
    except Exception as error:
        failure = disk.failure if disk is not None and disk.failure is not None else error
        if not isinstance(failure, OSError) or failure.errno is None:
            raise
        if failure.filename is not None and not str(failure.filename).endswith(UNFINISHED):
            raise  # of another file, which the block opened
        raise OSError(failure.errno, failure.strerror, str(path)) from error


def _create_temporary(path: Path) -> tuple[DiskFile, Path]:
    """Create a file beside `path` and lock it, so that another writer of `path` does not remove it as abandoned."""
    prefix = f".{path.name[:100]}."
    remove_abandoned(path.parent, prefix)
    while True:
        temporary = path.with_name(f"{prefix}{secrets.token_hex(4)}{UNFINISHED}")
        disk = DiskFile(temporary, "xb")
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks: remove_abandoned gets none either
                fcntl.flock(disk, fcntl.LOCK_EX)
        if os.fstat(disk.fileno()).st_nlink:
            return disk, temporary
        disk.close()  # another writer removed it before it was locked


def remove_abandoned(folder: Path, prefix: str = ".") -> None:
    """Remove the temporary files that no running process has locked; without locks, those that are a day old."""
    if sys.platform == "win32":  # no such locks; and an open file cannot be removed
        return
    for left in folder.iterdir():
        if left.name.startswith(prefix) and left.name.endswith(UNFINISHED):
            with suppress(OSError):  # locked by its writer, already removed, or another user's
                descriptor = os.open(left, os.O_RDWR)
                try:
                    _lock_or_age(descriptor)
                    left.unlink()
                finally:
                    os.close(descriptor)


def remove_oldest(paths: Iterable[Path], *, max_bytes: float, min_age: float) -> int:
    """Remove files, the oldest first, until the rest take at most so much or is younger. Return the bytes of the rest.

    min_age: in seconds.
    """
    stats = {}
    for path in paths:
        with suppress(FileNotFoundError):  # another process removed it
            stats[path] = path.stat()
    total = sum(stat.st_size for stat in stats.values())
    for path in sorted(stats, key=lambda path: stats[path].st_mtime):
        if total <= max_bytes or time.time() - stats[path].st_mtime < min_age:
            break
        path.unlink(missing_ok=True)
        total -= stats[path].st_size
    return total


def remove_folder(folder: Path) -> int:
    """Remove a folder and return the bytes freed."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder, ignore_errors=True)
    return size


def _lock_or_age(descriptor: int) -> None:
    """Raise `OSError` if a temporary file may still have a writer."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError) or time.time() - os.fstat(descriptor).st_mtime < ABANDONED_AFTER:
            raise


def relative(path: Path) -> str:
    """Return a path as one would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
