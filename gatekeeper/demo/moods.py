"""Who pays, who pays late and who never does: it depends on the reservation's id alone, so a run can be repeated."""

from enum import Enum

from gatekeeper.demo.payments import luck_of

LATE = 0.05
"""Share of customers who pay when their hold is over."""
NEVER = 0.03
"""Share of customers who do not pay."""
OVERTIME = 1.5
"""Seconds that late customers are late by: expiry has been there."""


class Mood(Enum):
    """What a customer does with a reservation."""

    PAYS = "pays"
    PAYS_LATE = "pays late"
    NEVER_PAYS = "never pays"


def mood_of(reservation: str) -> Mood:
    """The mood of whoever holds the reservation of this id."""
    luck = luck_of(reservation, "mood")
    if luck < NEVER:
        return Mood.NEVER_PAYS
    return Mood.PAYS_LATE if luck < NEVER + LATE else Mood.PAYS
