"""The command line in this process, over a test's own engines."""

import json

from click.testing import CliRunner, Result

from gatekeeper.cli import main
from gatekeeper.ledger import connect as connect_ledger
from tests.lua.sale import SALE, Sale
from workers.drain import drain


class Shell:
    """Runs commands against this test's engines."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.environment = {"GATEKEEPER_REDIS_URL": redis_url, "GATEKEEPER_DATABASE_URL": database_url}
        self.sale = Sale(redis_url)
        self.ledger = connect_ledger(database_url)

    def run(self, *words: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(main, words, input=stdin, env=self.environment)

    def done(self, *words: str, stdin: str | None = None) -> Result:
        result = self.run(*words, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result

    def refused(self, *words: str, stdin: str | None = None, code: int = 1) -> str:
        before, rows = self.sale.snapshot(), self.rows("SELECT * FROM inventory ORDER BY sku")
        result = self.run(*words, stdin=stdin)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert (self.sale.snapshot(), self.rows("SELECT * FROM inventory ORDER BY sku")) == (before, rows)
        return result.stderr

    def json(self, *words: str, stdin: str | None = None):  # type: ignore[no-untyped-def]
        return json.loads(self.done(*words, "--json", stdin=stdin).stdout)

    def rows(self, query: str) -> list[tuple]:  # type: ignore[type-arg]
        return self.ledger.execute(query).fetchall()

    def drain(self) -> None:
        self.sale.run(drain(self.sale.gate, self.ledger, SALE, keep=1000))

    def close(self) -> None:
        self.ledger.close()
        self.sale.close()
