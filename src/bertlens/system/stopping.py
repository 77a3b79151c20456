"""SIGTERM and Ctrl-C: what is being done is brought to a good end first.

Where a request may act at once, it is raised as `Stopped`. Inside `deferred()` it waits until `check()` is called, at a
place where stopping loses nothing; a second request does not wait.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# a terminal tells a whole group of processes, and each tells its own as well: that is one request
SAME_REQUEST = 1.0  # seconds


class Stopped(BaseException):
    """The process was asked to stop. No `Exception`, so that nothing takes it for an error to live with."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that this signal ended: 143 or 130."""
        return 128 + self.number


_handled = False
_requested: int | None = None
_requested_at = 0.0
_deferred = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _requested, _requested_at
    now = time.monotonic()
    is_first = _requested is None
    if not is_first and now - _requested_at < SAME_REQUEST:
        return
    _requested, _requested_at = number, now
    jobs = multiprocessing.active_children() if is_first else []  # of a sweep, side by side
    for job in jobs:
        if job.pid is not None:
            os.kill(job.pid, number)
    # how the jobs end is how this process ends
    if not is_first or not (jobs or _deferred):
        raise Stopped(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle the two signals; outside the main thread, where Python has no handlers, everything is as before."""
    global _handled, _requested
    if _handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    _handled, _requested = True, None
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handle()
    try:
        yield
    finally:
        _handled = False
        for number, handler in before.items():
            signal.signal(number, handler)


def handle() -> None:
    """Inside `stoppable()`: let both signals come here, also where a library has set handlers of its own since."""
    for number in SIGNALS if _handled else ():
        # who starts a process with a signal ignored (nohup, a shell's &) wants it to stay so
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


@contextmanager
def deferred() -> Iterator[None]:
    """A request made inside waits for `check()`, or for the end."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    check()


def is_requested() -> bool:
    return _requested is not None


def stopped() -> Stopped:
    """What to raise; without a request of its own, a process stops because another one of its run does."""
    return Stopped(signal.SIGTERM if _requested is None else _requested)


def check() -> None:
    """Raise the request, if there is one."""
    if is_requested():
        raise stopped()
