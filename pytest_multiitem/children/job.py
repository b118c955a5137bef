"""The child's side: the job that it reads, and the events that it writes.

``python -m MODULE FD`` reads a job (JSON, a line) from standard input, which stays open as long as its parent lives,
and writes an event (JSON) a line to the file descriptor FD. Whatever else the process prints goes to standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def events() -> Callable[..., None]:
    """What writes an event, given as keyword arguments that JSON can hold."""
    out = os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8")

    def emit(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")

    return emit


def read_job() -> dict[str, Any]:
    """The job; its ``path`` is where modules are looked for first. From then on this process and all that it has
    started end when the parent is gone."""
    source = os.dup(0)
    with Path(os.devnull).open("rb") as nothing:  # a user's module has no business with the parent's words
        os.dup2(nothing.fileno(), 0)
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(source, 1 << 16)
        if not part:
            raise SystemExit("the parent is gone")
        line += part
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    job: dict[str, Any] = json.loads(line)
    sys.path[:] = [*dict.fromkeys([*job["path"], *sys.path])]
    return job


def _end_with_parent(source: int) -> None:
    os.read(source, 1)  # nothing comes any more but the end
    if os.getpgrp() == os.getpid():  # the group is this process's own
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
