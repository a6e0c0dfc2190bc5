"""Which gate to buy from, with which keys, and what its admin says of the sale."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

PAGE = 1000
"""SKUs in one answer."""
TRIES = 5
"""How often to ask for a status that is refused for now, a second apart."""


class Unusable(Exception):
    """There is nothing to buy from; the text says what to do."""


class Target(NamedTuple):
    """A gate."""

    url: str
    shop_key: str
    admin_key: str


def find_target(host: str | None, environment: Mapping[str, str], stack: Mapping[str, Any] | None) -> Target:
    """The gate at `host`, or the running stack's. Raises Unusable.

    Keys come from the environment. The stack's own keys go to the stack's own address only.
    """
    known = stack if stack and (not host or host.rstrip("/") == stack["url"]) else {}
    url = (host or known.get("url", "")).rstrip("/")
    if not url:
        raise Unusable("no gate: start one with `gatekeeper up`, or name one with --host http://…")
    shop = environment.get("GATEKEEPER_SHOP_KEY") or known.get("shop_key")
    admin = environment.get("GATEKEEPER_ADMIN_KEY") or known.get("admin_key")
    if not shop or not admin:
        raise Unusable(f"no keys for {url}: set GATEKEEPER_SHOP_KEY and GATEKEEPER_ADMIN_KEY")
    return Target(url, shop, admin)


def read_pages(target: Target, sale: str) -> list[dict[str, Any]]:
    """All pages of the sale's admin status. Raises Unusable."""
    pages: list[dict[str, Any]] = []
    after = ""
    while not pages or after:
        query = urllib.parse.urlencode({"limit": PAGE, "after": after} if after else {"limit": PAGE})
        pages.append(_get(target, f"/v1/admin/sales/{urllib.parse.quote(sale)}/status?{query}", sale))
        after = pages[-1]["next"] or ""
    return pages


def _get(target: Target, path: str, sale: str) -> dict[str, Any]:
    request = urllib.request.Request(target.url + path, headers={"Authorization": f"Bearer {target.admin_key}"})
    trouble = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(1)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            with error:
                code = _code(error.read())
            if code == "unknown_sale":
                raise Unusable(how_to_make(sale)) from None
            trouble = f"{target.url} answers {error.code} {code}"
            if error.code < 500:
                break
        except (OSError, ValueError) as error:
            trouble = f"{target.url} does not answer ({error}): is `gatekeeper up` running?"
    raise Unusable(trouble)


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def how_to_make(sale: str) -> str:
    """The three commands that make a sale worth attacking."""
    return f"""there is no sale {sale}. Make one:
  gatekeeper sale create {sale} --per-buyer 2 --hold-seconds 5
  printf 'sku,quantity\\nJACKET,1000\\n' | gatekeeper stock load {sale} -
  gatekeeper sale open {sale}"""
