"""gatekeeper refunds: payments that became no sale, until the money is back."""

import click
from rich.table import Table

from gatekeeper.cli import fail
from gatekeeper.cli.context import actor, emit, json_option, out, reservation_id, run, sale_argument
from gatekeeper.cli.refusals import ended
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, reports
from gatekeeper.replies import Turn
from gatekeeper.settings import Settings


@click.group()
def refunds() -> None:
    """Payments that became no sale, until the money is back."""


@refunds.command("list")
@sale_argument
@click.option("--all", "everything", is_flag=True, help="Settled ones and rejected ones too.")
@json_option
def list_(sale: str, everything: bool, as_json: bool) -> None:
    """List payments that are due back, oldest first."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> list[dict[str, object]]:
        if not reports.exists(ledger, sale):
            fail(f"there is no sale {sale}")
        return reports.refunds(ledger, sale, due_only=not everything)

    rows = run(story)
    if as_json:
        emit(rows)
        return
    if not rows:
        out.print(f"no payment of {sale} is due back")
        return
    table = Table("reservation", "buyer", "payment", "state", "refund", "since (UTC)")
    table.columns[0].overflow = "fold"
    for row in rows:
        words = (row[name] for name in ("reservation", "buyer", "payment", "state", "refund"))
        table.add_row(*(str(word or "") for word in words), f"{row['created_at']:%m-%d %H:%M:%S}")
    out.print(table)


@refunds.command()
@sale_argument
@click.argument("id", callback=reservation_id)
@click.option("--refund", required=True, help="What refunded it, as your payment service names it.")
@click.option("--payment", default="", help="Which payment; needed when several of a reservation are due back.")
@json_option
def settle(sale: str, id: str, refund: str, payment: str, as_json: bool) -> None:
    """Record that a payment of reservation ID has been refunded."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Turn:
        turn = await gate.settle(sale, id, refund, actor=actor(), payment=payment)
        await gate.ring([sale])
        return turn

    turn = run(story)
    ended(sale, id, turn)
    if as_json:
        emit({"sale": sale, "reservation": id, "refund": refund, "changed": turn.changed})
    else:
        out.print(f"settled by {refund}" + ("" if turn.changed else " (it was so already)"))
