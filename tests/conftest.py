"""What holds for all tests of the project."""

import os
import signal

# Where tests run in the background of a shell, Ctrl-C is ignored, and so it would be in every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A worker of pytest-xdist has COLUMNS set, and what a command prints there would be as wide as that terminal.
os.environ.pop("COLUMNS", None)
