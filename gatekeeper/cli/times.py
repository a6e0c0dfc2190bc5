"""Times as people give and read them: always with an offset, echoed in UTC, local and how far off."""

import re
from datetime import UTC, datetime

import click


class Moment(click.ParamType[datetime]):
    """An ISO 8601 time with an offset."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse, or fail with what was expected."""
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
        except ValueError:
            pass
        self.fail(f"{value!r}: expected a time with an offset, such as 2026-11-27T10:00:00+01:00", param, ctx)


class Duration(click.ParamType[float]):
    """A length of time such as 90s, 15m, 2h or 1d; gives seconds."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse, or fail with what was expected."""
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if not found:
            self.fail(f"{value!r}: expected a duration such as 90s, 15m, 2h or 1d", param, ctx)
        return float(int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]])


def rfc3339(moment: datetime | None) -> str | None:
    """Return "2026-11-27T09:00:00Z", or None."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None


def spoken(moment: datetime | None) -> str:
    """Return the time in UTC, local, and from now; "by hand" for None."""
    if moment is None:
        return "by hand"
    local = moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"{rfc3339(moment)} ({local}, {distance(moment)})"


def distance(moment: datetime) -> str:
    """Return "in 3 h" or "5 min ago"."""
    seconds = (moment - datetime.now(UTC)).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if abs(seconds) >= size or unit == "s":
            amount = round(abs(seconds) / size)
            break
    return f"in {amount} {unit}" if seconds >= 0 else f"{amount} {unit} ago"
