"""A job on a machine that outlives the connection which started it: shell commands that start, watch and end it.

It has a directory of its own, with its pid and start time, its log and, at its end, its exit status. A pid alone could
be another process's by now; with its start time it is nobody else's.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

State = Literal["none", "starting", "running", "ended", "vanished"]
_STARTED = "cut -d' ' -f22 /proc/$p/stat"  # the process's name, which could hold a space, is sh
#: Whether process $p, begun at $s, is alive: a zombie, which nobody buries on some machines, is not.
_ALIVE = """case "$(cut -d' ' -f3,22 /proc/$p/stat 2>/dev/null)" in Z*) false ;; *" $s") true ;; *) false ;; esac"""
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Look:
    """What was seen of a job: its state, its exit status once it has ended, and what its log says since ``offset``."""

    state: State
    status: int | None
    log: bytes


@dataclass(frozen=True)
class Job:
    """``directory``: where the job works, relative to the home directory. ``attempt``: 1, 2, …"""

    directory: str
    attempt: int

    @property
    def _own(self) -> str:
        return f"job-{self.attempt}"

    def start(self, command: str) -> str:
        """Begins it, once: where the attempt has begun already, this does nothing."""
        job = f'p=$$; echo "$p $({_STARTED})" >{self._own}/pid.new; mv {self._own}/pid.new {self._own}/pid; '
        job += f"( {command} ); echo $? >{self._own}/status.new; mv {self._own}/status.new {self._own}/status"
        begin = f"setsid -f sh -c {shlex.quote(job)} >{self._own}/log 2>&1 </dev/null"
        return f"cd {self.directory} && {{ ! mkdir {self._own} 2>/dev/null || {begin}; }}"

    def look(self, offset: int) -> str:
        """Says how it stands, then what its log holds beyond ``offset`` bytes."""
        return (
            f"cd {self.directory}/{self._own} 2>/dev/null || {{ echo none; exit 0; }}; "
            f"if [ -e pid ]; then read p s <pid; if {_ALIVE}; then echo running; "
            'elif [ -e status ]; then echo "ended $(cat status)"; else echo vanished; fi; else echo starting; fi; '
            f"tail -c +{offset + 1} log 2>/dev/null | head -c {_CHUNK}"
        )

    def end(self, patience: int) -> str:
        """Ends it and its process group, if it is still that process: asked first, then killed after ``patience`` s."""
        wait = f"n=0; while {_ALIVE} && [ $n -lt {patience * 5} ]; do sleep 0.2; n=$((n+1)); done"
        return (
            f"cd {self.directory}/{self._own} 2>/dev/null && [ -e pid ] && read p s <pid && {{ {_ALIVE}; }} || exit 0; "
            f"kill -s TERM -- -$p; {wait}; kill -s KILL -- -$p 2>/dev/null; {wait}; exit 0"
        )


def parse_look(output: str) -> Look:
    """What `Job.look` printed. Raises ValueError where it is something else."""
    first, _, log = output.partition("\n")
    content = log.encode(errors="surrogateescape")
    state, _, status = first.partition(" ")
    if state == "ended" and status.isdecimal():
        return Look("ended", int(status), content)
    for known in ("none", "starting", "running", "vanished"):
        if first == known:
            return Look(known, None, content)
    raise ValueError(f"no state of a job: {first[:200]!r}")
