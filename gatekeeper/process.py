"""Child processes: started, started again when they die, stopped in order, and never left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

GRACE = 15.0
"""Seconds that a child may take to end in order."""
BACKOFF = 1.0
"""Seconds before a child that died starts again."""


def die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn` that has the kernel send `number` to the child once the thread that started it ends.

    Only Linux offers it: elsewhere a child outlives a parent that is killed -9.
    """
    if _LIBC is None:
        return None
    prctl, parent = _LIBC.prctl, os.getpid()

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask_the_kernel


@dataclass(slots=True)
class Child:
    """A module of ours as a child process: `python -m <words>`."""

    words: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    """Where it writes; None: where we do."""
    process: "subprocess.Popen[bytes] | None" = None
    start_at: float = 0.0

    @property
    def died(self) -> bool:
        """Whether it ended by itself."""
        return self.process is not None and self.process.poll() is not None

    def start(self) -> None:
        """Start it."""
        log = self.log.open("ab") if self.log else None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.words],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to hand on, in order
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        finally:
            if log:
                log.close()

    def keep_alive(self, say: Callable[[str], None]) -> None:
        """Start it when it does not run and its back-off is over; `say` hears that it died."""
        if self.process is not None and self.died:
            say(f"{' '.join(self.words)} ended with {self.process.returncode} and starts again")
            self.process, self.start_at = None, time.monotonic() + BACKOFF
        if self.process is None and time.monotonic() >= self.start_at:
            self.start()

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:]) if self.log else ""


def stop_all(children: Iterable[Child]) -> None:
    """Ask all of them to end, wait for all, and kill what does not within the grace."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + GRACE
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
