"""The contract as one HTML page that needs nothing but itself."""

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from gatekeeper.http.problems import KINDS

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --blue: #2563eb; --green: #15803d; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 6rem; }
h1 { margin-bottom: .25rem; } h2 { margin-top: 3rem; }
code, pre { font: .875em/1.5 ui-monospace, monospace; }
pre { background: var(--soft); padding: 1rem; border-radius: .5rem; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; }
summary { cursor: pointer; padding: .6rem .9rem; }
details > div { padding: 0 .9rem .9rem; overflow-x: auto; }
.method { display: inline-block; min-width: 3.2rem; font-weight: 700; color: var(--blue); }
.method.post { color: var(--green); }
.summary { opacity: .75; margin-left: .5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
"""


def page(spec: dict[str, Any]) -> str:
    """Render an OpenAPI document of ours."""
    return "".join(_page(spec))


def _page(spec: dict[str, Any]) -> Iterator[str]:
    info = spec["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>"
    yield f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
    yield f'<p>{escape(info["description"])}</p><p><a href="openapi.json">openapi.json</a></p>'
    yield f"<p>{escape(spec['components']['securitySchemes']['bearer']['description'])}</p><h2>Calls</h2>"
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            yield from _operation(path, method, operation)
    yield "<h2>Codes</h2><table><tr><th>code</th><th>status</th><th>meaning</th></tr>"
    for code, kind in KINDS.items():
        yield f"<tr id={code}><td><code>{code}</code></td><td>{kind.status}</td><td>{_prose(kind.detail)}</td></tr>"
    yield "</table><h2>Schemas</h2>"
    for name, schema in spec["components"]["schemas"].items():
        yield f"<details id={name}><summary><code>{name}</code></summary><div>{_json(schema)}</div></details>"
    yield "</body></html>"


def _operation(path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<details id={operation['operationId']}><summary><span class='method {method}'>{method.upper()}</span> "
    yield f"<code>{escape(path)}</code><span class=summary>{escape(operation['summary'])}</span></summary><div>"
    if operation["parameters"]:
        yield "<table><tr><th>parameter</th><th>in</th><th></th></tr>"
        yield from map(_parameter, operation["parameters"])
        yield "</table>"
    if "requestBody" in operation:
        yield f"<p>Body: {_schema_link(operation['requestBody']['content'])}</p>"
    yield "<table><tr><th>status</th><th>answer</th></tr>"
    for status, response in operation["responses"].items():
        lines = "<br>".join(map(_prose, response["description"].splitlines()))
        yield f"<tr><td>{status}</td><td>{lines} {_schema_link(response.get('content', {}))}</td></tr>"
    yield "</table></div></details>"


def _parameter(parameter: dict[str, Any]) -> str:
    name, required = escape(parameter["name"]), "required. " if parameter["required"] else ""
    note = required + _prose(parameter["description"])
    return f"<tr><td><code>{name}</code></td><td>{parameter['in']}</td><td>{note}</td></tr>"


def _schema_link(content: dict[str, Any]) -> str:
    names = [media["schema"]["$ref"].rpartition("/")[2] for media in content.values() if media]
    return " ".join(f'<a href="#{name}"><code>{name}</code></a>' for name in names)


def _prose(text: str) -> str:
    """Escape, and set what stands in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"
