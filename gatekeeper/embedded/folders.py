"""Data folders: where they are, who may enter them, who works in them."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatekeeper.embedded.engine import Account, DataInUse, EngineError

_LOCK_WAIT = 3.0  # seconds; a killed engine's children need a moment to notice and leave
_POLL = 0.02  # seconds


def default_state_dir() -> Path:
    """Where `up` keeps its data: /var/lib/gatekeeper for root, else the user's XDG state folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/gatekeeper")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "gatekeeper"


def make_folder(folder: Path, mode: int) -> Path:
    """Make it and its parents where missing, and return its full path.

    Parents let every account pass, whatever our umask: Postgres may run as another one.
    """
    folder = folder.resolve()
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(mode if missing == folder else 0o711)
    return folder


@contextmanager
def locked(data: Path) -> Iterator[int]:
    """The folder's lock, to be inherited by the engine; our own hold on it ends here."""
    try:
        lock = os.open(data / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise EngineError(f"{data} belongs to another user; use another data folder, or be that user") from error
    try:
        _take(lock, data)
        yield lock
    finally:
        os.close(lock)


def _take(lock: int, data: Path) -> None:
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise DataInUse(f"another engine is running on {data}; stop it, or use another data folder") from error
            time.sleep(_POLL)


def check_reachable(data: Path, account: Account) -> None:
    """Raise EngineError, naming the first folder on the way to `data` that the account may not enter."""
    for folder in reversed((data, *data.parents)):
        if not account.may(folder, 1):
            raise EngineError(
                f"Postgres runs as uid {account.uid}, which may not enter {folder}; "
                f"use another data folder, or: chmod o+x {folder}"
            )
