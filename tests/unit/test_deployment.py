"""Dockerfile, docker-compose.yml and the wheel are held to what the code needs; no container engine is asked for."""

import re
from pathlib import Path

import click
import pytest
import yaml

from gatekeeper.cli import main
from gatekeeper.settings import Settings
from lua import VERBS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_valkey_runs_with_every_setting_that_the_gate_requires() -> None:
    flags = SERVICES["valkey"]["command"][1:]
    settings = dict(zip(flags[::2], flags[1::2], strict=True))
    assert settings == {
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--no-appendfsync-on-rewrite": "no",
        "--maxmemory-policy": "noeviction",
    }


def test_every_long_running_service_has_a_healthcheck_and_restarts() -> None:
    running = {name: service for name, service in SERVICES.items() if name != "migrate"}
    assert running.keys() == {"valkey", "postgres", "worker", "door"}
    for service in running.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


def test_the_migration_runs_once_and_before_whatever_needs_it() -> None:
    assert SERVICES["migrate"]["restart"] == "no"
    for name in ("worker", "door"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_every_variable_set_is_a_setting() -> None:
    known = {f"GATEKEEPER_{name.upper()}" for name in Settings.__dataclass_fields__}
    for service in SERVICES.values():
        given = service.get("environment", {})
        assert {name for name in given if name.startswith("GATEKEEPER_")} <= known


def test_volumes_and_dependencies_name_what_exists() -> None:
    for service in SERVICES.values():
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= COMPOSE["volumes"].keys()
        assert service.get("depends_on", {}).keys() <= SERVICES.keys()


@pytest.mark.parametrize("words", [s["command"] for s in SERVICES.values() if s.get("image") == "gatekeeper"])
def test_every_command_is_one_that_the_cli_takes(words: list[str]) -> None:
    with click.Context(main) as context:
        command = main.get_command(context, words[0])
        assert command is not None
        command.make_context(words[0], words[1:], parent=context, resilient_parsing=False).close()


def test_the_image_is_built_in_stages_from_what_exists_and_runs_as_an_ordinary_user() -> None:
    assert len(re.findall(r"^FROM ", DOCKERFILE, re.MULTILINE)) == 2
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["gatekeeper"]


def test_the_wheel_takes_the_packages_that_hold_every_script_and_migration() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert 'packages = ["gatekeeper", "workers", "lua"]' in project
    assert {path.stem for path in (ROOT / "lua").glob("*.lua")} == {*VERBS, "prelude"}
    assert list((ROOT / "gatekeeper/ledger/migrations").glob("0001_*.sql"))
