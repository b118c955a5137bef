"""Fake servers as forks of one process: what they import is imported once, which is most of what a start takes.

Reads a line of JSON a command. ``[DIRECTORY, ARGUMENT, …]`` starts a server; answered by "pid PID", then by what the
server writes, or by "failed". ``PID`` kills a server, waits for its end; answered by "ended". All end with the input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

import fake_server


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def serve(directory: str, *arguments: str) -> None:
    """The whole life of a server's process."""
    try:
        say(f"pid {os.getpid()}")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(directory)
        sys.argv[1:] = arguments
        fake_server.main()
    except BaseException:  # noqa: BLE001 - whatever it is, no server is there, and nobody else may go on with the loop below
        traceback.print_exc()
    say("failed")
    os._exit(1)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # it is not reaped before, whatever its state: the id is nobody else's
    os.waitpid(pid, 0)


if __name__ == "__main__":
    servers = set()
    for line in iter(sys.stdin.readline, ""):
        command = json.loads(line)
        if isinstance(command, int):
            end(command)
            servers.remove(command)
            say("ended")
        elif pid := os.fork():
            servers.add(pid)
        else:
            serve(*command)
    for pid in servers:  # nobody is left who could ask for their end
        end(pid)
