"""The self-check against a real Valkey whose settings and rights are changed under it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gatekeeper.embedded import free_port, start_valkey
from gatekeeper.errors import GateUnavailable
from gatekeeper.gate import connect
from gatekeeper.metrics import REDIS_SETTINGS
from gatekeeper.selfcheck import check_redis
from gatekeeper.settings import Durability

SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey of this module's own, for it is misconfigured on purpose."""
    with start_valkey(Path(tmp_path_factory.mktemp("selfcheck"))) as engine:
        yield engine.url


@pytest.fixture
def admin(own_url: str) -> Iterator[redis.Redis]:
    """Its operator's client; every test begins with safe settings and without users."""
    with redis.Redis.from_url(own_url) as client:
        for name, value in SAFE.items():
            client.config_set(name, value)
        client.execute_command("ACL", "DELUSER", "door")
        yield client


def checked(url: str, accepted: Durability = "always") -> list[str]:
    async def main() -> list[str]:
        client = connect(url, timeout=1)
        try:
            return await check_redis(client, accepted)
        finally:
            await client.aclose()

    return asyncio.run(main())


def metric() -> float:
    value: float = REDIS_SETTINGS._value.get()
    return value


def as_door(url: str, password: str = "pw") -> str:
    return url.replace("redis://", f"redis://door:{password}@")


def test_a_safe_redis_has_no_problems(admin: redis.Redis, own_url: str) -> None:
    assert checked(own_url) == [] and metric() == 1


@pytest.mark.parametrize(
    ("name", "value", "waived_by"),
    [
        ("appendonly", "no", {"unverified"}),
        ("appendfsync", "everysec", {"everysec", "unverified"}),
        ("appendfsync", "no", {"unverified"}),
        ("no-appendfsync-on-rewrite", "yes", {"unverified"}),
        ("maxmemory-policy", "allkeys-lru", set()),
    ],
)
def test_an_unsafe_setting_is_named_with_its_remedy_and_waived_only_where_accepted(
    admin: redis.Redis, own_url: str, name: str, value: str, waived_by: set[Durability]
) -> None:
    admin.config_set(name, value)
    (problem,) = checked(own_url)
    assert problem.startswith(f"{name} is {value}, expected {SAFE[name]}: run `CONFIG SET {name} {SAFE[name]}`")
    for accepted in ("everysec", "unverified"):
        assert checked(own_url, accepted) == ([] if accepted in waived_by else [problem])
    assert metric() == 0  # whatever is accepted


def test_where_config_is_refused_only_unverified_is_let_through_and_eviction_never(
    admin: redis.Redis, own_url: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "door", "on", ">pw", "~gk1:*", "+@all", "-config")
    (problem,) = checked(as_door(own_url))
    assert "CONFIG GET is refused" in problem and "GATEKEEPER_DURABILITY=unverified" in problem
    assert checked(as_door(own_url), "unverified") == []
    admin.config_set("maxmemory-policy", "volatile-lru")
    (problem,) = checked(as_door(own_url), "unverified")
    assert problem.startswith("maxmemory-policy is volatile-lru, expected noeviction")


def test_a_right_that_a_script_would_miss_halfway_is_found(admin: redis.Redis, own_url: str) -> None:
    admin.execute_command("ACL", "SETUSER", "door", "on", ">pw", "~gk1:*", "+@all", "-zadd")
    (problem,) = checked(as_door(own_url))
    assert problem.startswith("the ACL refuses ZADD")
    admin.execute_command("ACL", "SETUSER", "door", "on", ">pw", "resetkeys", "~other:*", "+@all")
    assert any(problem.startswith("the ACL refuses HSET") for problem in checked(as_door(own_url)))


def test_a_wrong_password_is_a_problem_and_no_outage(admin: redis.Redis, own_url: str) -> None:
    (problem,) = checked(as_door(own_url, "wrong"))
    assert "GATEKEEPER_REDIS_URL" in problem and metric() == 0


def test_a_redis_that_is_away_is_an_outage_and_no_problem() -> None:
    with pytest.raises(GateUnavailable, match="cannot be reached"):
        checked(f"redis://127.0.0.1:{free_port()}")
