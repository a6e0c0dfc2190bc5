"""gatekeeper reservations: look into the ledger, and give holds back."""

from typing import Any

import click
from rich.table import Table

from gatekeeper.cli import fail
from gatekeeper.cli.context import actor, emit, json_option, out, reservation_id, run, sale_argument
from gatekeeper.cli.refusals import ended
from gatekeeper.cli.times import Duration
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, reports
from gatekeeper.replies import Turn
from gatekeeper.settings import Settings

STATES = ("held", "sold", "released", "expired")


@click.group()
def reservations() -> None:
    """Look into the ledger's reservations; give single ones back."""


def find(sale: str, **filters: Any) -> list[dict[str, Any]]:
    """Return reservations of a sale from the ledger."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> list[dict[str, Any]]:
        if not reports.exists(ledger, sale):
            fail(f"there is no sale {sale}")
        return list(reports.reservations(ledger, sale, **filters))

    return run(story)


@reservations.command("list")
@sale_argument
@click.option("--state", type=click.Choice(STATES))
@click.option("--stale", is_flag=True, help="Only holds past their deadline: expiry should have ended them.")
@click.option("--older-than", type=Duration(), help="Only those made longer ago, such as 90s, 15m, 2h, 1d.")
@click.option("--buyer")
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True)
@json_option
def list_(
    sale: str,
    state: str | None,
    stale: bool,
    older_than: float | None,
    buyer: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List reservations, oldest first."""
    rows = find(sale, state=state, stale=0.0 if stale else None, older=older_than, buyer=buyer, limit=limit)
    if as_json:
        emit(rows)
        return
    table = Table("id", "buyer", "items", "state", "made (UTC)", "until (UTC)")
    table.columns[0].overflow = "fold"
    for row in rows:
        items = ", ".join(f"{item['quantity']} {item['sku']}" for item in row["items"])
        table.add_row(
            row["id"],
            row["buyer"],
            items,
            row["state"] + (" (late)" if row["late"] else ""),
            f"{row['created_at']:%m-%d %H:%M:%S}",
            f"{row['expires_at']:%H:%M:%S}",
        )
    out.print(table)
    if len(rows) == limit:
        out.print(f"the first {limit}; --limit shows more")


@reservations.command()
@sale_argument
@click.argument("id")
@json_option
def show(sale: str, id: str, as_json: bool) -> None:
    """Show one reservation as the ledger has it."""
    rows = find(sale, id=id)
    if not rows:
        fail(f"the ledger has no reservation {id} of {sale}; just made? it is there within a second")
    if as_json:
        emit(rows[0])
        return
    for name, value in rows[0].items():
        out.print(f"{name:16} {value}", markup=False)


@reservations.command()
@sale_argument
@click.argument("id", callback=reservation_id)
@click.option("--reason", required=True, help="Kept with it. To undo a sale: refund or rejected.")
@json_option
def release(sale: str, id: str, reason: str, as_json: bool) -> None:
    """Give a hold's units back, or undo a sale (--reason refund: its payment becomes due back; or rejected)."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Turn:
        turn = await gate.release(sale, id, reason, actor=actor())
        await gate.ring([sale])
        return turn

    turn = run(story)
    reservation = ended(sale, id, turn)
    if as_json:
        emit({"sale": sale, "reservation": id, "state": reservation.state, "changed": turn.changed})
    else:
        out.print(f"{id} is released" + ("" if turn.changed else " (it was so already)"))
    if reservation.refunds and not as_json:
        out.print(f"see `gatekeeper refunds list {sale}`")
