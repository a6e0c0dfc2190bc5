"""What is broken or cannot be decided now. Expected refusals are values (`outcomes.Outcome`), never exceptions.

GatekeeperError
├── SettingsError          a setting is missing or malformed
├── InvalidInput           a value that a person or a program gave us
└── GateError              nothing was decided, or nobody knows: ask again with the same idempotency key
    ├── GateUnavailable    Redis is unreachable, or its answer got lost
    ├── Overloaded         this front door's own queues are full; nothing was sent
    ├── SaleFenced         Redis answers, but this sale's state is not proven
    ├── UnknownSale        the catalogue is there and lacks the sale
    └── SaleArchived       the sale is over, and only its books remain
"""


class GatekeeperError(Exception):
    """Base of all errors here; its text is a sentence for a person."""


class SettingsError(GatekeeperError):
    """A setting is missing or malformed; the text names it and says what was expected."""


class InvalidInput(GatekeeperError):
    """A given value cannot be used; the text names the field and says what was expected."""


class GateError(GatekeeperError):
    """The gate gave no decision."""


class GateUnavailable(GateError):
    """Redis is unreachable, or its answer got lost: the outcome is unknown, not a failure."""


class Overloaded(GateError):
    """More purchases, or calls, wait in this front door than it may queue."""


class SaleFenced(GateError):
    """Redis answers, but this sale's state is not proven: nothing is decided until the controller has."""


class UnknownSale(GateError):
    """No sale of that name exists."""


class SaleArchived(GateError):
    """The sale was archived: the gate holds a tombstone, the ledger everything else."""
