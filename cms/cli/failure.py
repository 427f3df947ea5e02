"""`Failure`: why a command of `cms` cannot go on."""

# The exit status of a command that has failed, unless sysexits.h has a more exact one.
FAILED = 1


class Failure(Exception):
    """A command cannot go on. `hint` is what to do next, "" if the message says it; `status` is the exit status."""

    def __init__(self, message: str, hint: str = "", status: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status
