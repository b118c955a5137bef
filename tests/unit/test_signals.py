"""The first signal interrupts; what then ends is not interrupted."""

import signal
import socket
import subprocess
import sys

import pytest

from pytest_multiitem import signals
from pytest_multiitem.signals import ENDING, Interruptions, exit_status


@pytest.fixture
def ended():
    """What ended, and the handlers as they were when the test is over."""
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    yield []
    for number, handler in before.items():
        signal.signal(number, handler)


def test_one_burst_ends_once(ended, monkeypatch):
    interruptions = Interruptions(ended.append)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    assert ended == [signal.SIGTERM] and interruptions.caught == signal.SIGTERM
    monkeypatch.setattr(interruptions, "_quiet_until", 0.0)  # somebody, a debugger, has gone on
    signal.raise_signal(signal.SIGINT)
    assert ended == [signal.SIGTERM, signal.SIGINT]
    assert interruptions.caught == signal.SIGTERM and interruptions.noted is None


def test_what_is_held_is_only_noted(ended):
    interruptions = Interruptions(ended.append)
    interruptions.hold()
    signal.raise_signal(signal.SIGHUP)
    assert ended == [] and interruptions.noted == interruptions.caught == signal.SIGHUP


def test_the_handlers_of_others_stay(ended):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup

    def mine(number, frame):
        pass

    signal.signal(signal.SIGTERM, mine)
    interruptions = Interruptions(ended.append)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and signal.getsignal(signal.SIGTERM) is mine
    interruptions.restore()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL and signal.getsignal(signal.SIGTERM) is mine


def test_once_ended_they_are_ignored_at_the_end_of_the_process(ended, monkeypatch):
    """And not before: pytest.main() may have been called by a program that goes on."""
    at_exit = []
    monkeypatch.setattr("atexit.register", at_exit.append)
    interruptions = Interruptions(ended.append)
    interruptions.restore()
    assert at_exit == []
    interruptions = Interruptions(ended.append)
    signal.raise_signal(signal.SIGINT)
    interruptions.restore()
    assert {signal.getsignal(number) for number in ENDING} == {signal.SIG_DFL}
    (at_end,) = at_exit
    at_end()
    assert {signal.getsignal(number) for number in ENDING} == {signal.SIG_IGN}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_exit_status_is_a_shell_s(number, status):
    assert exit_status(number) == status == signals.SIGNALLED + number


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_another_thread_gets_ends_a_wait(number):
    """The kernel chooses the thread; that it is not the main one is forced here by a mask. Without the waker, the wait
    lasts for its 60 s."""
    program = (
        "import os, signal, sys, threading, time\n"
        "from pytest_multiitem.signals import Interruptions\n"
        "def end(number): raise KeyboardInterrupt(number.name)\n"
        f"number = signal.Signals({int(number)})\n"
        "signal.signal(number, signal.SIG_DFL)\n"  # under nohup it is ignored
        "interruptions = Interruptions(end)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {number})\n"
        "def other():\n"
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), number)\n"
        "    time.sleep(60)\n"
        "threading.Thread(target=other, daemon=True).start()\n"
        "try:\n"
        "    threading.Event().wait()\n"
        "except KeyboardInterrupt as interrupt:\n"
        "    print(interrupt)\n"
        "interruptions.restore()\n"
        "print(signal.set_wakeup_fd(-1), signal.getsignal(signal.SIGURG) == signal.SIG_DFL)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert finished.stdout.split() == [number.name, "-1", "True"], finished


def test_who_is_woken_by_signals_already_stays_so(ended):
    read, write = socket.socketpair()
    with read, write:
        write.setblocking(False)
        before = signal.set_wakeup_fd(write.fileno())
        try:
            Interruptions(ended.append).restore()
            assert signal.set_wakeup_fd(write.fileno()) == write.fileno()
        finally:
            signal.set_wakeup_fd(before)
