"""The state folder: closed to other users, with a lock file for each thing that only one worker may do at a time.

A lock is flock on `NAME.lock`, held from reading a grant to storing it, so that two workers never redeem one refresh
token twice. It is never on the vault file itself, since a rename replaces that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cms.grants.secrets import Unavailable, storage, unavailable
from cms_oauth.moves import fill

# How often a lock that another worker holds is tried. It is held for one round trip to Entra.
LOCK_PAUSE = 0.02


def busy() -> Unavailable:
    """Say that another thread or worker has held a lock for too long."""
    return unavailable("timeout", "another cms process is busy with this sign-in", fill("{nothing_to_do}"))


class StateFolder:
    """One state folder. `patience` is how many seconds another worker's lock is waited for."""

    def __init__(self, path: Path, patience: float) -> None:
        self.path = path
        self._patience = patience

    def make(self) -> None:
        """Make the folder, of mode 0700, where there is none, and make sure that it is ours. Raises Unavailable."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise storage(error, f"the state folder {self.path} cannot be made") from None
        self.close()

    def close(self) -> None:
        """Close the folder, if it is there, to other users. Raises Unavailable where it is another user's."""
        if not self.path.is_dir():
            return
        try:
            status = self.path.stat()
            if status.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}")
            if status.st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise storage(error, f"the state folder {self.path} cannot be used") from None

    @contextmanager
    def lock(self, name: str, patience: float | None = None) -> Iterator[None]:
        """Hold `NAME.lock` against other processes. A folder that does not exist has nothing to protect."""
        if not self.path.is_dir():
            yield
            return
        descriptor = self._take(f"{name}.lock", self._patience if patience is None else patience)
        try:
            yield
        finally:
            os.close(descriptor)

    def _take(self, name: str, patience: float) -> int:
        """Lock a lock file; return its descriptor, which holds the lock until it is closed."""
        descriptor = -1
        try:
            deadline = time.monotonic() + patience
            while not self._is(descriptor, name):
                # The process that held it before has deleted it with its sign-in, or this is the first try.
                if descriptor >= 0:
                    os.close(descriptor)
                descriptor = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                _until(partial(_flock, descriptor), deadline)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise storage(error, f"nothing can be locked in {self.path}") from None
        except Unavailable:
            os.close(descriptor)
            raise
        return descriptor

    def _is(self, descriptor: int, name: str) -> bool:
        """Whether the file that is open here is the one that other processes find under its name."""
        if descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(descriptor), (self.path / name).stat())
        except FileNotFoundError:
            return False


def _flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _until(attempt: Callable[[], bool], deadline: float) -> None:
    while not attempt():
        if time.monotonic() > deadline:
            raise busy()
        time.sleep(LOCK_PAUSE)
