"""Every Redis key name, in one place. `gk1:` is the layout's version; lua/README.md is the data model.

The braces are Redis Cluster's hash tag: all keys of a sale share one slot, so one script may touch them all.
"""

PREFIX = "gk1:"

CATALOGUE = f"{PREFIX}catalogue"
"""Set of the names of all sales, and of CATALOGUE_MARK: told apart from a Redis that lost everything."""

CATALOGUE_MARK = "."
"""A member that no sale can be named; its presence proves that the controller wrote the catalogue."""

DOORBELL = f"{PREFIX}doorbell"
"""Set of sales that got events since the ticker last looked. A hint only: the ticker's rotation finds the rest."""

DEADLINES = f"{PREFIX}deadlines"
"""Sorted set: sale → the deadline (ms of Redis's clock) of a hold of it. A hint for expiry, like the doorbell."""

HEARTBEATS = f"{PREFIX}heartbeats"
"""Hash: name of a worker's part → when it last did its round, in ms of Redis's clock."""

FENCED = f"{PREFIX}fenced"
"""Set of sales that fenced themselves since the controller last looked. A hint only, like the doorbell."""


def _of(sale: str, noun: str) -> str:
    return f"{PREFIX}{{{sale}}}:{noun}"


def sale(name: str) -> str:
    """Hash: state, window, settings, epoch, fence and how far the ledger has applied the outbox."""
    return _of(name, "sale")


def stock(name: str) -> str:
    """Hash: SKU → "available held sold granted tracked paused"."""
    return _of(name, "stock")


def skus(name: str) -> str:
    """Sorted set of the SKUs in byte order, for paging."""
    return _of(name, "skus")


def reservations(name: str) -> str:
    """Hash: reservation id → record."""
    return _of(name, "reservations")


def buyers(name: str) -> str:
    """Hash: buyer → units held or sold; kept only while the sale has a limit per buyer."""
    return _of(name, "buyers")


def due(name: str) -> str:
    """Sorted set: reservation id → deadline in ms of Redis's clock."""
    return _of(name, "due")


def outbox(name: str) -> str:
    """Stream of the sale's events, ids `<epoch>-<n>` with n dense from 0."""
    return _of(name, "outbox")
