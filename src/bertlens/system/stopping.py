"""SIGTERM and Ctrl-C end a run at a point where nothing is lost.

A signal only sets a flag and is passed on to the run's other processes; code that takes long calls `check()` between
its steps. There is no way to stop within a step, but SIGTERM ends the process after `GRACE` seconds at the latest, and
a second Ctrl-C ends it at once: files are written whole or not at all, so neither damages one.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 25  # seconds; cluster managers kill about 30 s after SIGTERM
# seconds; a terminal signals all processes of a run, and each of them signals the others: that is one request
SAME_REQUEST = 1.0

_PARENT = os.getppid()

_handled = False
_requested: int | None = None
_requested_at = 0.0
_peers: set[int] = set()


class Stopped(BaseException):
    """The process was asked to stop. No `Exception`, so that no handler of errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    @property
    def exit_status(self) -> int:
        """Return 143 or 130, as shells do, or 0 for a started process that had joined the run's process group.

        Lightning kills the main process when one that it started ends with another status. That is right only while
        the main process waits for that one to join.
        """
        distributed = sys.modules.get("torch.distributed")
        has_joined = distributed is not None and distributed.is_available() and distributed.is_initialized()
        return 0 if is_child() and has_joined else 128 + self.number


def is_child() -> bool:
    """Return whether another process of the run started this one and reports for it (`trainer.devices` above 1)."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle both signals inside, in the main thread: Python has handlers only there.

    After a request, errors of distributed calls count as the stop: another process of the run was faster.
    """
    global _handled, _requested
    is_outermost = not _handled and _in_main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if is_outermost:
        _handled, _requested = True, None
        handle()
    try:
        yield
    except (RuntimeError, SystemExit) as error:  # Lightning's own stop is a SystemExit without a code
        if not is_requested() or getattr(error, "code", None) is not None:
            raise
        raise stopped() from error
    finally:
        if is_outermost:
            _handled = False
            for number, handler in before.items():
                signal.signal(number, handler)


def handle() -> None:
    """Inside `stoppable()`: handle both signals here again, after a library has set handlers of its own."""
    if not (_handled and _in_main_thread()):
        return
    for number in SIGNALS:
        # nohup, or a shell's &, starts a process with a signal ignored, and it must stay ignored
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def pass_on_to(pids: Iterable[int]) -> None:
    """Let requests, also one that was made before, go on to these processes."""
    _peers.update(pids)
    if is_requested():
        _pass_on()


def is_requested() -> bool:
    return _requested is not None


def stopped() -> Stopped:
    """Return what to raise. Without a request of its own, a process stops because another one of its run does."""
    return Stopped(signal.SIGTERM if _requested is None else _requested)


def check() -> None:
    """Raise `Stopped` if a stop was requested."""
    if is_requested():
        raise stopped()


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Note the request. Never raise: this may run at any bytecode."""
    global _requested, _requested_at
    now = time.monotonic()
    if _requested is None:
        _requested, _requested_at = number, now
        if number == signal.SIGTERM and hasattr(signal, "alarm"):
            signal.alarm(GRACE)  # its default action ends the process, also where Python cannot run
        _pass_on()
    elif number == signal.SIGINT and now - _requested_at > SAME_REQUEST:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _pass_on() -> None:
    jobs = {job.pid for job in multiprocessing.active_children() if job.pid is not None}  # of a sweep, side by side
    parent = {_PARENT} if is_child() and os.getppid() == _PARENT else set()
    for pid in _peers | jobs | parent:
        with suppress(OSError):  # it has ended
            os.kill(pid, signal.SIGTERM)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
