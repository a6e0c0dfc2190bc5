"""Who asks: API keys of a merchant's own programs, and buyer tokens that the merchant signed for a shopper."""

import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, Literal, NamedTuple, get_args

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gatekeeper.errors import InvalidInput, SettingsError
from gatekeeper.http.problems import Refused
from gatekeeper.settings import Settings

Role = Literal["shop", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
MAX_CREDENTIALS = 4096
"""Bytes of an Authorization header that are looked at."""
MIN_SECRET = 32
"""Bytes of a shared secret for HS256, as long as its digest."""
MIN_RSA_BITS = 2048

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MALFORMED = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)  # PyJWT lets some of Python's out
_log = logging.getLogger(__name__)


class Identity(NamedTuple):
    """Who asks: a key's `name` and role, or the `buyer` that a token speaks for."""

    name: str
    role: Literal["shop", "admin", "buyer"]
    buyer: str = ""


def hash_key(secret: str) -> str:
    """SHA-256 of an API key in hex: all that is kept of it. 256 random bits need no slow hash."""
    return sha256(secret.encode()).hexdigest()


def new_key(name: str, role: str) -> tuple[str, str]:
    """Make an API key: (the secret, shown once; the line `name:role:sha256` for the settings). Raises InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"name {name!r}: expected 1 to 64 of A-Z a-z 0-9 . _ -")
    if role not in ROLES:
        raise InvalidInput(f"role {role!r}: expected one of {', '.join(ROLES)}")
    secret = f"gk_{role}_{secrets.token_urlsafe(32)}"
    return secret, f"{name}:{role}:{hash_key(secret)}"


class Keyring:
    """Every credential that this front door accepts. `identify` costs an API key one look into a dictionary."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when a key is malformed, or when there is none."""
        self._fixed = _parse_keys("GATEKEEPER_KEYS", settings.keys.split(","))
        self._file = settings.keys_file
        self._stamp = self._file_stamp()
        self._keys = self._fixed | self._read_file()
        self._seen: dict[bytes, Identity] = {}
        self._tokens = TokenVerifier(settings.buyer_token_key) if settings.buyer_token_key else None
        if not self._keys:
            raise SettingsError(
                "there are no API keys. Make one with `gatekeeper keys create --name NAME --role shop` and put the "
                "line that it prints into GATEKEEPER_KEYS or the file GATEKEEPER_KEYS_FILE."
            )

    def identify(self, authorization: bytes | None, sale: str) -> Identity:
        """Return who sends this Authorization header about this sale; raises Refused (401)."""
        if authorization and (known := self._seen.get(authorization)):
            return known
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token or len(token) > MAX_CREDENTIALS:
            raise Refused("unauthorized", "", (b"www-authenticate", b"Bearer"))
        digest = sha256(token).hexdigest()
        identity = self._keys.get(digest)
        if identity and authorization:
            if len(self._seen) < 2 * len(self._keys):  # no more than the keys there are, in either spelling of Bearer
                self._seen[authorization] = identity
            return identity
        if not identity and self._tokens and token.count(b".") == 2:
            identity = self._tokens.verify(token, sale)
        if not identity and self.refresh():
            identity = self._keys.get(digest)
        if not identity:
            detail = "This API key or buyer token is unknown, expired, or not for this sale."
            raise Refused("unauthorized", detail, (b"www-authenticate", b'Bearer error="invalid_token"'))
        return identity

    def refresh(self) -> bool:
        """Read the file again if it changed; a file that cannot be used leaves the keys as they are."""
        stamp = self._file_stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._keys = self._fixed | self._read_file()
            self._seen.clear()
        except SettingsError as error:
            _log.error("keys not read again: %s", error)
            return False
        return True

    def _file_stamp(self) -> tuple[int, int, int] | None:
        if not self._file:
            return None
        try:
            found = os.stat(self._file)
        except OSError:  # reading it tells why
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read_file(self) -> dict[str, Identity]:
        if not self._file:
            return {}
        try:
            with open(self._file, encoding="utf-8") as lines:
                return _parse_keys(f"GATEKEEPER_KEYS_FILE={self._file}", (line.partition("#")[0] for line in lines))
        except OSError as error:
            raise SettingsError(f"GATEKEEPER_KEYS_FILE={self._file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"GATEKEEPER_KEYS_FILE={self._file}: expected UTF-8 text") from None


def _parse_keys(source: str, entries: Iterable[str]) -> dict[str, Identity]:
    return dict(_parse_key(source, entry.strip()) for entry in entries if entry.strip())


def _parse_key(source: str, entry: str) -> tuple[str, Identity]:
    name, _, rest = entry.partition(":")
    role, _, digest = rest.partition(":")
    for known in ROLES:
        if _NAME.fullmatch(name) and role == known and _DIGEST.fullmatch(digest):
            return digest, Identity(name, known)
    raise SettingsError(f"{source}: the entry {entry[:16]}… is not name:role:sha256 with a role of {', '.join(ROLES)}")


class TokenVerifier:
    """Buyer tokens: JWTs under one key and the one algorithm that this key is for."""

    def __init__(self, key: str) -> None:
        """`key`: a PEM public key, or a secret of ≥ 32 bytes. Raises SettingsError."""
        self._key, self._algorithm = _verification_key(key)
        self._jwt = jwt.PyJWT({"require": ["exp", "sub", "aud"]})

    def verify(self, token: bytes, sale: str) -> Identity | None:
        """Return the buyer whom a token for this sale speaks for; None when it is no good."""
        try:
            claims: dict[str, Any] = self._jwt.decode(token, self._key, [self._algorithm], audience=sale, leeway=0)
        except _MALFORMED:
            return None
        return Identity("buyer-token", "buyer", claims["sub"])


def _verification_key(key: str) -> tuple[Any, str]:
    """The key and its only algorithm: a token cannot choose, so no public key is ever taken for a shared secret."""
    if "-----" not in key:
        if len(key.encode()) < MIN_SECRET:
            raise SettingsError(f"GATEKEEPER_BUYER_TOKEN_KEY: a shared secret needs {MIN_SECRET} bytes or more")
        return key, "HS256"
    try:
        public = load_pem_public_key(key.replace("\\n", "\n").encode())
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError("GATEKEEPER_BUYER_TOKEN_KEY: expected a PEM public key (BEGIN PUBLIC KEY)") from None
    for algorithm in _algorithms(public):
        return public, algorithm
    raise SettingsError(
        f"GATEKEEPER_BUYER_TOKEN_KEY: expected RSA of {MIN_RSA_BITS} bits or more, EC on P-256, or Ed25519"
    )


def _algorithms(public: object) -> Iterator[str]:
    match public:
        case rsa.RSAPublicKey() if public.key_size >= MIN_RSA_BITS:
            yield "RS256"
        case ec.EllipticCurvePublicKey() if isinstance(public.curve, ec.SECP256R1):
            yield "ES256"
        case ed25519.Ed25519PublicKey():
            yield "EdDSA"
