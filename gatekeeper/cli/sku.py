"""gatekeeper sku: pause and resume single SKUs."""

from collections.abc import Callable

import click

from gatekeeper.cli.context import actor, emit, json_option, out, run_gate, sale_argument
from gatekeeper.cli.refusals import accepted
from gatekeeper.gate import Gate
from gatekeeper.replies import Changed


@click.group()
def sku() -> None:
    """Pause and resume single SKUs."""


def _command(name: str, summary: str) -> Callable[..., None]:
    @sku.command(name, help=summary)
    @sale_argument
    @click.argument("sku")
    @json_option
    def command(sale: str, sku: str, as_json: bool) -> None:
        async def story(gate: Gate) -> Changed:
            changed = accepted(sale, await gate.control(sale, f"{name}_sku", actor=actor(), sku=sku))
            await gate.ring([sale])
            return changed

        changed = run_gate(story).changed
        state = {"pause": "paused", "resume": "on sale"}[name]
        if as_json:
            emit({"sale": sale, "sku": sku, "paused": name == "pause", "changed": changed})
        else:
            out.print(f"{sku} is {state}" + ("" if changed else " (it was so already)"))

    return command


_command("pause", "Refuse purchases that name this SKU; the others go on.")
_command("resume", "Sell this SKU again.")
