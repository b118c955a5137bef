"""What holds for all tests of the project."""

import signal

# Where tests run in the background of a shell, Ctrl-C is ignored, and so it would be in every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
