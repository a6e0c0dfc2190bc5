"""The scripts, as Redis will run them: the prelude, then the verb's own file.

A script's name is its file's name, the `Gate` method that calls it and the metric label that counts it.
"""

import re
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

VERBS = (
    "grant", "control", "admit", "confirm", "release", "expire", "settle", "discard",
    "checkpoint", "applied", "reservation", "availability",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Script:
    """One verb: its full text and the SHA-1 (40 hex digits) that EVALSHA names it by."""

    name: str
    text: str
    sha: str


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _script(name: str, prelude: str) -> Script:
    text = _read(name)
    if text.startswith("#!"):  # what Redis is to know of a script stands in its very first line
        shebang, _, text = text.partition("\n")
        prelude = f"{shebang}\n{prelude}"
    text = f"{prelude}\n{text}"
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def load() -> dict[str, Script]:
    """Return every script by name, read from the installed or the checked-out package."""
    prelude = _read("prelude")
    return {name: _script(name, prelude) for name in VERBS}


SCRIPTS = load()
VERSION = re.findall(r"^local VERSION = '(\d+)'", SCRIPTS["control"].text, re.MULTILINE)[0]
"""The rules' version, as the prelude has it: a sale proven under another is fenced until it is proven again."""
