"""The headers in lua/ are read by people, so they are held true."""

import re
from pathlib import Path

import pytest

import gatekeeper.gate
import lua
from gatekeeper import keys
from gatekeeper.gate import Gate
from gatekeeper.outcomes import Outcome

FOLDER = Path(lua.__file__).parent
SCRIPTS = {name: (FOLDER / f"{name}.lua").read_text() for name in lua.VERBS}
PRELUDE = (FOLDER / "prelude.lua").read_text()
GATE = Path(gatekeeper.gate.__file__).read_text()
each_script = pytest.mark.parametrize("name", lua.VERBS)


def header(name: str) -> dict[str, str]:
    return dict(re.findall(r"^-- (\w+): (.+)$", SCRIPTS[name], re.MULTILINE))


def code(text: str) -> str:
    return re.sub(r"--.*", "", text)


def test_a_script_is_a_file_a_verb_and_a_gate_method() -> None:
    assert {path.stem for path in FOLDER.glob("*.lua")} == {*lua.VERBS, "prelude"}
    assert all(callable(getattr(Gate, name)) for name in lua.VERBS)


@each_script
def test_every_header_says_everything(name: str) -> None:
    assert list(header(name)) == ["purpose", "KEYS", "ARGV", "reply", "codes", "event"]


@each_script
def test_the_first_lines_bind_the_keys_of_the_header_by_name(name: str) -> None:
    nouns = header(name)["KEYS"].split()
    bound = re.search(r"^local (.+) = unpack\(KEYS\)$", SCRIPTS[name], re.MULTILINE)
    assert bound and bound.group(1).split(", ") == [f"{noun}_key" for noun in nouns]
    assert all(callable(getattr(keys, noun)) for noun in nouns)


@each_script
def test_the_gate_sends_the_keys_of_the_header_in_its_order(name: str) -> None:
    body = GATE.split(f"async def {name}(")[1].split("async def ")[0]
    for shared in re.findall(r"(\w+_KEYS)", body):
        body += GATE.split(f"{shared} =")[1].split("\n")[0]
    sent = re.search(r"\((keys\.sale(?:, keys\.\w+)*)\)", body)
    assert sent and sent.group(1).replace("keys.", "").split(", ") == header(name)["KEYS"].split()


@each_script
def test_the_codes_of_the_header_are_those_that_it_answers(name: str) -> None:
    own, reserved = SCRIPTS[name], re.findall(r"local function enter_reservation\(.*?\nend\n", PRELUDE, re.DOTALL)[0]
    if "enter(" in own or "enter_reservation(" in own:
        own += PRELUDE.replace(reserved, "")
    if "enter_reservation(" in own:
        own += reserved
    text = re.sub(r"\.state (=|==|~=) '[a-z]+'", "", code(own))  # a state, not an answer
    words = set(re.findall(r"'([a-z_]+)'", text))
    assert set(header(name)["codes"].split()) == words & set(Outcome)


def test_every_outcome_is_one_that_some_script_answers() -> None:
    assert set(Outcome) == {code for name in lua.VERBS for code in header(name)["codes"].split()}


@each_script
def test_the_event_of_the_header_is_the_one_that_it_writes(name: str) -> None:
    text = code(SCRIPTS[name])
    written = re.findall(r"append_event\(\w+, \w+, '(\w+)'", text)
    written += re.findall(r"write_change\(\w+, \w+, \w+, \w+, \w+, '(\w+)'", text)
    written += re.findall(r"event = '(\w+)\\n'", text)
    promised = header(name)["event"]
    assert bool(written) == (promised != "none")
    assert all(event in promised for event in written)


@each_script
def test_no_script_assigns_a_global(name: str) -> None:
    text = code(PRELUDE + SCRIPTS[name])
    while "{" in text:  # what is assigned inside a table is no variable
        text = re.sub(r"\{[^{}]*\}", "", text)
    local = set(re.findall(r"local function (\w+)", text))
    for names in re.findall(r"\b(?:local|for) ([\w, ]+?)(?: =| in|$)", text, re.MULTILINE):
        local |= set(names.replace(" ", "").split(","))
    for parameters in re.findall(r"function ?\w*\(([\w, ]*)\)", text):
        local |= set(parameters.replace(" ", "").split(","))
    assigned = re.findall(r"^\s*(?:local |for )?([\w, ]+?) = ", text, re.MULTILINE)
    assert {part for names in assigned for part in names.split(", ")} <= local


def test_the_readme_names_every_key_and_every_script() -> None:
    readme = (FOLDER / "README.md").read_text()
    nouns = {noun for name in lua.VERBS for noun in header(name)["KEYS"].split()}
    assert all(f"`{noun}`" in readme for noun in nouns)
    assert all(f"`{name}`" in readme for name in lua.VERBS)
