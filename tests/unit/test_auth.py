"""Who is let in: keys by their hash, buyer tokens by the one algorithm that their key is for."""

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.errors import InvalidInput, SettingsError
from gatekeeper.http.app import create_app
from gatekeeper.http.auth import Identity, Keyring, hash_key, new_key
from gatekeeper.http.problems import Refused
from gatekeeper.settings import Settings

SECRET = "a shared secret of 32 bytes, or more"
SALE = "boots"
SHOP = f"web:shop:{hash_key('s3cret')}"
Signer = tuple[Any, str, str]


def ring(**settings: str) -> Keyring:
    return Keyring(Settings(**{"keys": SHOP, **settings}))  # type: ignore[arg-type]


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "bob", "aud": SALE, "exp": time.time() + 60} | more


def identified(keyring: Keyring, token: str | bytes, sale: str = SALE) -> Identity | None:
    """Who this token is, or None after a 401."""
    raw = token.encode() if isinstance(token, str) else token
    try:
        return keyring.identify(b"Bearer " + raw, sale)
    except Refused as refused:
        assert refused.code == "unauthorized"
        assert refused.headers == ((b"www-authenticate", b'Bearer error="invalid_token"'),)
        return None


def pem(private: Any) -> str:
    text: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def test_a_new_key_opens_with_its_secret_and_its_line_keeps_only_the_hash() -> None:
    secret, line = new_key("web-1", "admin")
    assert secret.startswith("gk_admin_") and len(secret) == len("gk_admin_") + 43
    assert line == f"web-1:admin:{hash_key(secret)}"
    assert identified(ring(keys=line), secret) == Identity("web-1", "admin")


@pytest.mark.parametrize(("name", "role"), [("", "shop"), ("a:b", "shop"), ("a b", "shop"), ("a", "buyer"), ("a", "")])
def test_a_key_without_a_plain_name_or_a_role_is_not_made(name: str, role: str) -> None:
    with pytest.raises(InvalidInput):
        new_key(name, role)


def test_without_keys_the_front_door_does_not_start_and_says_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match="gatekeeper keys create"):
        create_app(Settings(redis_url="redis://nowhere"))


@pytest.mark.parametrize(
    "keys", ["web", "web:shop", "web:root:" + "0" * 64, "web:shop:" + "0" * 63, ":shop:" + "0" * 64]
)
def test_a_malformed_key_is_a_settings_error_that_does_not_repeat_it(keys: str) -> None:
    with pytest.raises(SettingsError, match="GATEKEEPER_KEYS") as error:
        ring(keys=keys)
    assert keys[16:] == "" or keys not in str(error.value)


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", b"Bearer ", b"Basic s3cret", b"s3cret", b"Bearer " + b"x" * 5000]
)
def test_without_usable_credentials_it_is_401_and_asks_for_a_bearer(header: bytes | None) -> None:
    with pytest.raises(Refused) as refused:
        ring().identify(header, SALE)
    assert (refused.value.code, refused.value.headers) == ("unauthorized", ((b"www-authenticate", b"Bearer"),))


def test_the_scheme_is_read_in_any_case_and_an_unknown_key_is_401() -> None:
    assert ring().identify(b"bearer s3cret", SALE) == Identity("web", "shop")
    assert identified(ring(), "another") is None


def test_a_keys_file_is_read_again_when_it_changed_and_kept_when_it_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{SHOP}  # the web shop\n")
    keyring = ring(keys="", keys_file=str(file))
    assert identified(keyring, "s3cret") == Identity("web", "shop")
    assert identified(keyring, "new") is None
    file.write_text(f"ops:admin:{hash_key('new')}\n")
    assert identified(keyring, "new") == Identity("ops", "admin")
    assert identified(keyring, "s3cret") is None
    file.write_text("nonsense\n")
    assert not keyring.refresh() and identified(keyring, "new") == Identity("ops", "admin")
    os.unlink(file)
    assert not keyring.refresh() and identified(keyring, "new") == Identity("ops", "admin")
    with pytest.raises(SettingsError, match="No such file"):
        ring(keys="", keys_file=str(file))


def rsa_signer() -> Signer:
    private = rsa.generate_private_key(65537, 2048)
    return private, pem(private), "RS256"


def ec_signer() -> Signer:
    private = ec.generate_private_key(ec.SECP256R1())
    return private, pem(private), "ES256"


def ed_signer() -> Signer:
    private = ed25519.Ed25519PrivateKey.generate()
    return private, pem(private), "EdDSA"


@pytest.mark.parametrize("signer", [rsa_signer, ec_signer, ed_signer, lambda: (SECRET, SECRET, "HS256")])
def test_a_token_of_each_kind_of_key_speaks_for_its_buyer(signer: Callable[[], Signer]) -> None:
    private, public, algorithm = signer()
    keyring = ring(buyer_token_key=public)
    token = jwt.encode(claims(), private, algorithm)
    assert identified(keyring, token) == Identity("buyer-token", "buyer", "bob")
    assert identified(keyring, token, "other-sale") is None
    head, body, signature = token.split(".")
    assert identified(keyring, f"{head}.{body}.{signature[:-4]}AAAA") is None
    assert identified(ring(), token) is None  # no buyer tokens are set up


@pytest.mark.parametrize(
    "bad",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"aud": "other"},
        {"aud": None},
        {"sub": None},
        {"sub": 7},
        {"nbf": 4_000_000_000},
    ],
)
def test_a_token_that_is_over_elsewhere_or_nobodys_is_401(bad: dict[str, Any]) -> None:
    given = {name: value for name, value in claims(**bad).items() if value is not None}
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    signed = header + b"." + base64.urlsafe_b64encode(json.dumps(given).encode()).rstrip(b"=")
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = base64.urlsafe_b64encode(algorithm.sign(signed, algorithm.prepare_key(SECRET))).rstrip(b"=")
    assert identified(ring(buyer_token_key=SECRET), signed + b"." + signature) is None


def test_the_token_does_not_choose_its_algorithm() -> None:
    _, public, _ = rsa_signer()
    keyring = ring(buyer_token_key=public)
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    signed = header + b"." + base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    algorithm = jwt.get_algorithm_by_name("HS256")
    # The public key is public: were it taken for a shared secret, anyone could sign.
    signature = base64.urlsafe_b64encode(algorithm.sign(signed, public.encode())).rstrip(b"=")
    assert identified(keyring, signed + b"." + signature) is None
    assert identified(keyring, jwt.encode(claims(), None, "none")) is None
    assert identified(ring(buyer_token_key=SECRET), jwt.encode(claims(), SECRET + SECRET, "HS512")) is None


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_no_token_is_more_than_a_401(header: bytes, body: bytes, signature: bytes) -> None:
    parts = (base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, body, signature))
    assert identified(ring(buyer_token_key=SECRET), b".".join(parts)) is None
    assert identified(ring(buyer_token_key=SECRET), b"%b.%b.%b" % (header, body, signature)) is None


@pytest.mark.parametrize(
    "header", [b'{"alg":["HS256"]}', b'{"alg":{}}', b'{"alg":null}', b"[]", b"[" * 3000, b'{"crit":["x"]}']
)
def test_a_header_of_the_wrong_shape_is_a_401(header: bytes) -> None:
    token = base64.urlsafe_b64encode(header).rstrip(b"=") + b".e30.AAAA"
    assert identified(ring(buyer_token_key=SECRET), token[:4000]) is None


@pytest.mark.parametrize(
    "key",
    [
        "short",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        pem(rsa.generate_private_key(65537, 1024)),
        pem(ec.generate_private_key(ec.SECP384R1())),
    ],
)
def test_a_key_that_cannot_verify_buyer_tokens_is_a_settings_error(key: str) -> None:
    with pytest.raises(SettingsError, match="GATEKEEPER_BUYER_TOKEN_KEY"):
        ring(buyer_token_key=key)
