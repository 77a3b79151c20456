"""SIGTERM and Ctrl-C end a run at a point where nothing is lost.

A signal only sets a flag and is passed on to the run's other processes; code that takes long calls `check()` between
its steps. There is no way to stop within a step, but SIGTERM ends the process after `GRACE` seconds at the latest, and
a second Ctrl-C ends it at once: files are written whole or not at all, so neither damages one.

A cluster's signal is a request as well if it has a handler already, which requeues the job, such as submitit's. That
handler is called when the run has saved and unwound.
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
CLUSTER_SIGNALS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
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
        """Return 143 or 130, as shells do, or 0 for a further process that had joined the run's process group.

        Lightning and SLURM kill the main process when another one ends with another status. That is right only while
        the main process waits for that one to join, and wrong while it has its job requeued.
        """
        distributed = sys.modules.get("torch.distributed")
        has_joined = distributed is not None and distributed.is_available() and distributed.is_initialized()
        is_peer = not is_main_process() and (has_joined or self.number in CLUSTER_SIGNALS)
        return 0 if is_peer else 128 + self.number

    def hand_on(self) -> None:
        """Outside `stoppable()`: call the handler that a cluster's signal had before. It may end the process."""
        if self.number in CLUSTER_SIGNALS:
            signal.raise_signal(self.number)


def is_main_process() -> bool:
    """Return whether this is the process that writes, of those that Lightning or a cluster started for one run."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def is_child() -> bool:
    """Return whether another process of the run started this one and reports for it (`trainer.devices` above 1)."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def stoppable() -> Iterator[None]:
    """Handle the signals inside, in the main thread: Python has handlers only there.

    After a request, errors of distributed calls count as the stop: another process of the run was faster.
    """
    global _handled, _requested
    is_outermost = not _handled and _in_main_thread()
    of_a_cluster = [number for number in CLUSTER_SIGNALS if callable(signal.getsignal(number))]
    before = {number: signal.getsignal(number) for number in (*SIGNALS, *of_a_cluster)}
    if is_outermost:
        _handled, _requested = True, None
        handle()
        for number in of_a_cluster:
            signal.signal(number, _on_signal)
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
    if _requested is None or number in CLUSTER_SIGNALS:  # it may follow a SIGTERM, and requeues
        _requested, _requested_at = number, now
        if number == signal.SIGTERM and hasattr(signal, "alarm"):
            signal.alarm(GRACE)  # its default action ends the process, also where Python cannot run
        _pass_on()
    elif number == signal.SIGINT and now - _requested_at > SAME_REQUEST:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif number == signal.SIGINT and _requested == signal.SIGTERM:  # Ctrl-C reached another process first
        _requested = number


def _pass_on() -> None:
    jobs = {job.pid for job in multiprocessing.active_children() if job.pid is not None}  # of a sweep, side by side
    parent = {_PARENT} if is_child() and os.getppid() == _PARENT else set()
    for pid in _peers | jobs | parent:
        with suppress(OSError):  # it has ended
            os.kill(pid, signal.SIGTERM)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
