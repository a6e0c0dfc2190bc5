"""The processes that this run started: how much CPU each kind of them takes, and how to hold some of them still.

All by pid and parent's pid, from Linux's /proc. Elsewhere nothing is seen, and what needs it is left out.
"""

import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
# Continues the processes that it is given once its input ends: when we close it, or are killed, whatever comes first.
_GUARD = 'read _; kill -CONT "$@"'


class Spent(NamedTuple):
    """Seconds of CPU time, in user space and in the kernel."""

    user: float = 0.0
    system: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        return Spent(self.user + other.user, self.system + other.system)

    def minus(self, other: "Spent") -> "Spent":
        return Spent(self.user - other.user, self.system - other.system)


class _Process(NamedTuple):
    parent: int
    spent: Spent
    """Its own, and that of its children that ended and were waited for."""


def visible() -> bool:
    """Whether this system tells of processes."""
    return (_PROC / "self" / "stat").exists()


def _all() -> dict[int, _Process]:
    found = {}
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            user, system, user_of_ended, system_of_ended = (int(ticks) / _TICKS for ticks in fields[11:15])
            found[int(folder.name)] = _Process(int(fields[1]), Spent(user + user_of_ended, system + system_of_ended))
    return found


def _tree(processes: Mapping[int, _Process], root: int) -> list[int]:
    """A process, then its children, then theirs."""
    pids = [root]
    for pid in pids:
        pids += [child for child, process in processes.items() if process.parent == pid]
    return [pid for pid in pids if pid in processes]


def tree(root: int) -> list[int]:
    """The pids of a process, then of its children, then of theirs."""
    return _tree(_all(), root)


def children() -> dict[int, list[str]]:
    """Our own children: pid → the words that it was started with."""
    found = {}
    for pid, process in _all().items():
        with suppress(OSError):
            if process.parent == os.getpid():
                found[pid] = (_PROC / str(pid) / "cmdline").read_bytes().decode().split("\0")
    return found


def spent(roots: Mapping[str, int]) -> dict[str, Spent]:
    """CPU time so far by kind, of each root with all below it; `client`: us, and those we waited for. {}: unseen."""
    processes = _all()
    if not processes:
        return {}
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    client = Spent(sum(usage.ru_utime for usage in usages), sum(usage.ru_stime for usage in usages))
    return {kind: _sum(processes, root) for kind, root in roots.items()} | {"client": client}


def servers_seconds() -> float | None:
    """CPU time so far of all our running children and theirs (the client is not among them); None: unseen."""
    processes = _all()
    ours = [pid for pid, process in processes.items() if process.parent == os.getpid()]
    return sum(sum(_sum(processes, pid)) for pid in ours) if processes else None


def idle_seconds() -> float:
    """Seconds that the cores of this machine had nothing to do, or waited for the disk; 0.0: unseen."""
    try:
        cpu = (_PROC / "stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return (int(cpu[4]) + int(cpu[5])) / _TICKS


def _sum(processes: Mapping[int, _Process], root: int) -> Spent:
    total = Spent()
    for pid in _tree(processes, root):
        total = total.plus(processes[pid].spent)
    return total


@contextmanager
def held_still(root: int) -> Iterator[None]:
    """Stop a process and all below it; they go on afterwards, whatever happens meanwhile, even if it ends us."""
    pids = tree(root)
    command = ["sh", "-c", _GUARD, "sh", *map(str, pids)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True):
        for pid in pids:  # parents first: who is stopped starts nobody
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
