"""A signal sets a flag and goes on to the run's other processes; nothing is raised before the next check."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch.distributed

from bertlens.system import stopping
from bertlens.system.stopping import Stopped, check, handle, is_requested, pass_on_to, stoppable, stopped


@pytest.fixture(autouse=True)
def alarms(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The deadlines that were set, which are not to end this process."""
    seconds: list[int] = []
    monkeypatch.setattr(signal, "alarm", seconds.append)
    monkeypatch.setattr(stopping, "_requested", None)
    monkeypatch.setattr(stopping, "_peers", set())
    return seconds


def send(number: int) -> None:
    """Send this process a signal; its handler has run when this returns."""
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "status", "deadlines"), [(signal.SIGTERM, 143, [25]), (signal.SIGINT, 130, [])])
def test_a_signal_is_raised_at_the_next_check(alarms, number, status, deadlines):
    with stoppable():
        check()
        send(number)
        assert is_requested()
        with pytest.raises(Stopped, match=f"stopped by {number.name}") as caught:
            check()
    assert caught.value.exit_status == status
    assert alarms == deadlines


def test_the_earlier_handlers_are_back_afterwards():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stoppable(), stoppable():
        assert [signal.getsignal(number) for number in stopping.SIGNALS] == [stopping._on_signal] * 2
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_a_library_that_sets_a_handler_is_overruled_at_the_next_stage():
    with stoppable():
        signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the library's handler was called"))
        handle()
        send(signal.SIGTERM)
        assert is_requested()


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            send(signal.SIGINT)
            assert not is_requested()
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "signals", [[signal.SIGUSR2], [signal.SIGTERM, signal.SIGUSR2], [signal.SIGUSR2, signal.SIGTERM]]
)
def test_a_clusters_signal_goes_to_its_own_handler_when_the_run_has_unwound(alarms, signals):
    """submitit's handler requeues the job and ends the process: what is not saved by then is lost."""

    def run() -> None:
        with stoppable():
            for number in signals:
                send(number)
            check()

    received: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    try:
        with pytest.raises(Stopped, match="stopped by SIGUSR2") as caught:
            run()
        assert received == []
        caught.value.hand_on()
        assert received == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert caught.value.exit_status == 140
    assert alarms == [25] * (signal.SIGTERM in signals[:1])


def test_ctrl_c_is_named_also_if_another_process_passed_it_on_first():
    with stoppable():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert stopped().exit_status == 130


def test_a_signal_that_no_cluster_handles_is_left_alone():
    with stoppable():
        assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL
    Stopped(signal.SIGTERM).hand_on()  # does nothing


def test_outside_the_main_thread_nothing_is_handled():
    def run() -> None:
        with stoppable():
            handle()
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=run)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert found == [before]


def fail(error: BaseException, *, requested: bool) -> None:
    with stoppable():
        if requested:
            send(signal.SIGTERM)
        raise error


@pytest.mark.parametrize("error", [RuntimeError("connection closed by peer"), SystemExit()])
def test_after_a_request_an_error_of_a_distributed_call_is_the_stop(error):
    with pytest.raises(Stopped):
        fail(error, requested=True)
    with pytest.raises(type(error)):
        fail(error, requested=False)


@pytest.mark.parametrize("error", [ValueError("of the user's"), OSError(28, "disk full"), SystemExit(1)])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)):
        fail(error, requested=True)


def child() -> subprocess.Popen[bytes]:
    """A process that ends with status 7 at SIGTERM."""
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(7)); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("first", ["the process", "the request"])
def test_a_request_goes_on_to_the_other_processes(first):
    process = child()
    with stoppable():
        if first == "the process":
            pass_on_to([process.pid])
            send(signal.SIGINT)
        else:
            send(signal.SIGINT)
            pass_on_to([process.pid])
        assert process.wait(30) == 7


def test_a_process_that_has_ended_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with stoppable():
        pass_on_to([process.pid])
        send(signal.SIGTERM)
        assert is_requested()


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_PROCID"])
@pytest.mark.parametrize(
    ("rank", "has_joined", "status"), [(None, True, 143), ("0", True, 143), ("1", True, 0), ("1", False, 143)]
)
def test_a_further_process_that_others_wait_for_ends_with_0(monkeypatch, variable, rank, has_joined, status):
    if rank is not None:
        monkeypatch.setenv(variable, rank)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: has_joined)
    assert stopped().exit_status == status
    assert Stopped(signal.SIGUSR2).exit_status == (0 if rank == "1" else 140)  # the main process is yet to requeue


BUSY = """
import os, signal, sys, time
from bertlens.system import stopping
stopping.GRACE, stopping.SAME_REQUEST = 1, 0.2
with stopping.stoppable():
    print(flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        sum(range(1000))  # never checks
"""


def busy() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_sigterm_ends_a_process_that_never_checks():
    process = busy()
    process.terminate()
    assert process.wait(30) == -signal.SIGALRM


def test_a_second_ctrl_c_ends_a_process_at_once():
    process = busy()
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # the terminal's and the parent's: one request
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == -signal.SIGINT


def test_what_a_child_is_asked_goes_on_to_the_process_that_started_it():
    code = (
        "import os, signal, subprocess, sys\n"
        "from bertlens.system import stopping\n"
        "with stopping.stoppable():\n"
        "    if 'LOCAL_RANK' in os.environ:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    else:\n"
        "        environ = os.environ | {'LOCAL_RANK': '1'}\n"
        "        child = subprocess.run([sys.executable, *sys.argv[1:]], env=environ)\n"
        "        print(stopping.is_requested(), child.returncode)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout == "True 0\n"
