"""What the gate needs of its Redis, checked before anything is answered: durability, memory policy, version, rights."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
from redis import exceptions as rex

from gatekeeper import keys, metrics
from gatekeeper.errors import GateUnavailable
from gatekeeper.settings import Durability

MIN_MAJOR = 7
"""Of Redis; every Valkey is newer. `XADD <epoch>-*` came with 7."""

_STRENGTH: Mapping[Durability, int] = {"unverified": 0, "everysec": 1, "always": 2}


@dataclass(frozen=True, slots=True)
class _Need:
    """A durability setting, and what it costs not to have it."""

    name: str
    expected: str
    remedy: str
    everysec: tuple[str, ...] = ()
    """Further values that do when losing the last second is accepted."""

    def met(self, value: str, accepted: Durability) -> bool:
        return value == self.expected or (accepted == "everysec" and value in self.everysec)


_CONFIG_FILE = "and keep it with `CONFIG REWRITE`"
_NEEDS = (
    _Need("appendonly", "yes", f"run `CONFIG SET appendonly yes` {_CONFIG_FILE}"),
    _Need(
        "appendfsync",
        "always",
        f"run `CONFIG SET appendfsync always` {_CONFIG_FILE}, "
        "or accept losing the last second with GATEKEEPER_DURABILITY=everysec",
        everysec=("everysec",),
    ),
    _Need("no-appendfsync-on-rewrite", "no", f"run `CONFIG SET no-appendfsync-on-rewrite no` {_CONFIG_FILE}"),
)
_POLICY = _Need(
    "maxmemory-policy",
    "noeviction",
    f"run `CONFIG SET maxmemory-policy noeviction` {_CONFIG_FILE}: an evicted key is a forgotten sale",
)

_PROBE = "gatekeeper-selfcheck"
_KEY = keys.sale(_PROBE)
_COMMANDS: tuple[tuple[str, ...], ...] = (
    ("EVALSHA", "0" * 40, "1", _KEY),
    ("SCRIPT", "EXISTS", "0" * 40),
    ("TIME",),
    ("INFO", "replication"),
    ("TYPE", _KEY),
    ("EXISTS", _KEY),
    ("UNLINK", _KEY),
    ("HGET", _KEY, "f"),
    ("HMGET", _KEY, "f"),
    ("HSET", _KEY, "f", "v"),
    ("HDEL", _KEY, "f"),
    ("ZADD", _KEY, "0", "m"),
    ("ZREM", _KEY, "m"),
    ("ZCARD", _KEY),
    ("ZRANGE", _KEY, "0", "0"),
    ("ZRANGEBYLEX", _KEY, "-", "+"),
    ("XADD", _KEY, "1-*", "f", "v"),
    ("XINFO", "STREAM", _KEY),
    ("XREVRANGE", _KEY, "+", "-"),
    ("SMISMEMBER", keys.CATALOGUE, keys.CATALOGUE_MARK),
    ("SADD", keys.DOORBELL, _PROBE),
)
"""What the scripts and the front door run. An ACL that refuses one would strike in the middle of a script."""


async def check_redis(redis: aioredis.Redis, accepted: Durability) -> list[str]:
    """Return one sentence per problem, with its remedy; empty when this Redis may be trusted.

    `accepted` waives durability only: never noeviction, the version or missing rights. Sets metrics.REDIS_SETTINGS to
    1 when nothing needed to be waived, else 0. Raises GateUnavailable when Redis cannot be asked.
    """
    try:
        config = await _config(redis)
        info = await _info(redis)
        others = [*_policy(config, info), *_version(info), *await _rights(redis)]
    except rex.AuthenticationError as error:
        metrics.REDIS_SETTINGS.set(0)
        return [f"Redis refuses to let us in ({error}): put user and password into GATEKEEPER_REDIS_URL"]
    except (rex.ConnectionError, rex.TimeoutError, OSError) as error:
        raise GateUnavailable(f"Redis cannot be reached ({error or type(error).__name__})") from error
    except rex.RedisError as error:
        others, config = [f"Redis refuses a command that the gate needs: {error}"], None
    metrics.REDIS_SETTINGS.set(not others and not any(_durability(config, "always")))
    return [*_durability(config, accepted), *others]


async def _config(redis: aioredis.Redis) -> dict[str, str] | None:
    """The settings that matter, or None where CONFIG is refused, as hosted services do."""
    try:
        found = await redis.config_get(*(need.name for need in (*_NEEDS, _POLICY)))
    except rex.ResponseError:
        return None
    return {str(name): str(value) for name, value in found.items()}


async def _info(redis: aioredis.Redis) -> dict[str, Any]:
    return {**await redis.info("server"), **await redis.info("memory")}


def _durability(config: Mapping[str, str] | None, accepted: Durability) -> Iterator[str]:
    if not _STRENGTH[accepted]:
        return
    if config is None:
        yield (
            "CONFIG GET is refused, so durability cannot be verified: allow it to this user, "
            "or accept not knowing with GATEKEEPER_DURABILITY=unverified"
        )
        return
    for need in _NEEDS:
        if not need.met(config.get(need.name, "unknown"), accepted):
            yield _sentence(need, config.get(need.name, "unknown"))


def _policy(config: Mapping[str, str] | None, info: Mapping[str, Any]) -> Iterator[str]:
    value = (config or {}).get(_POLICY.name) or info.get("maxmemory_policy", "unknown")
    if value != _POLICY.expected:
        yield _sentence(_POLICY, value)


def _sentence(need: _Need, value: str) -> str:
    return f"{need.name} is {value}, expected {need.expected}: {need.remedy}"


def _version(info: Mapping[str, Any]) -> Iterator[str]:
    version = str(info.get("redis_version", "unknown"))
    major = version.partition(".")[0]
    if "valkey_version" not in info and not (major.isdigit() and int(major) >= MIN_MAJOR):
        yield f"Redis is version {version}, expected {MIN_MAJOR} or later, or Valkey: upgrade it"


async def _rights(redis: aioredis.Redis) -> Iterable[str]:
    """Ask the ACL, without running anything; a user that may not ask is believed."""
    try:
        user = await redis.acl_whoami()
        async with redis.pipeline(transaction=False) as pipe:
            for command in _COMMANDS:
                pipe.execute_command("ACL", "DRYRUN", user, *command)
            answers = await pipe.execute()
    except rex.ResponseError:
        return []
    return [_refused(command, answer) for command, answer in zip(_COMMANDS, answers, strict=True) if answer != b"OK"]


def _refused(command: tuple[str, ...], answer: object) -> str:
    said = answer.decode() if isinstance(answer, bytes) else str(answer)
    return f"the ACL refuses {command[0]} to this user ({said}): allow it on the keys {keys.PREFIX}*"
