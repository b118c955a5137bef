"""The project's exceptions: each message says what was expected, what came, and what to do next."""


class MultiItemError(Exception):
    """Base of everything this package raises on purpose."""


class UsageError(MultiItemError):
    """The user asked for something that cannot be done as asked (a wrong value, a missing file)."""


class EngineUnavailable(MultiItemError):
    """An engine cannot run on this machine (package or device missing). A gate reports it as NOT_RUN."""


class CheckpointError(MultiItemError):
    """A model directory is missing, incomplete, damaged or of an unsupported architecture."""
