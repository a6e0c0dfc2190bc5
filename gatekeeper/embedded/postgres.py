"""Postgres with the ledger's database."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psycopg

from gatekeeper.embedded.binaries import postgres_binaries, usable_by
from gatekeeper.embedded.engine import NO_CONFIG, Account, Engine, EngineError, Launcher, environment
from gatekeeper.embedded.folders import check_reachable, locked, make_folder

POSTGRES_CONFIG: Mapping[str, str] = MappingProxyType(
    # No socket file: its path may have 107 bytes, a data folder's is often longer.
    {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
)
"""Everything else, durability too, is Postgres's own default."""

_DATABASE = "gatekeeper"
_NOBODY = 65534  # uid and gid; Postgres refuses to run as root


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


def start_postgres(
    data: Path, *, port: int | None = None, config: Mapping[str, str] = NO_CONFIG, timeout: float = 60.0
) -> Postgres:
    """Start Postgres on `data` (initialised when empty) and wait until the database `gatekeeper` is there.

    `port`, `timeout`: as for start_valkey. `config`: settings; tests pass {"fsync": "off"}. Started by root it
    runs as an ordinary user, who must be able to reach `data`. Raises EngineError.
    """
    data = make_folder(data, 0o711)
    cluster = data / "cluster"
    account = _account_for(cluster)
    check_reachable(data, account)
    binaries = usable_by(account, postgres_binaries())
    command = [str(binaries / "postgres"), "-D", str(cluster)]
    for name, value in {**POSTGRES_CONFIG, **config}.items():
        command += ["-c", f"{name}={value}"]
    with locked(data) as lock:
        _initialise(binaries, cluster, account)
        _remove_stale_pid_file(cluster)
        launcher = Launcher(data, cluster, lock, account)
        return launcher.start(Postgres, lambda free: [*command, "-p", str(free)], port, timeout)


def _account_for(cluster: Path) -> Account:
    if os.geteuid() != 0:
        return Account()
    if cluster.exists() and (owner := cluster.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    return Account(_NOBODY, _NOBODY)


def _initialise(binaries: Path, cluster: Path, account: Account) -> None:
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
        env=environment(),
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
