"""What the fast lane leans on in uvicorn, which promises none of it: a newer one must fail here, clearly."""

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gatekeeper.http import contract, serve
from gatekeeper.http.fastlane import FastLane
from gatekeeper.http.guard import GuardedProtocol


def test_the_installed_uvicorn_is_one_that_the_fast_lane_knows() -> None:
    assert contract.broken() == ""


def no_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "on_headers_complete")


def another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HttpToolsProtocol.on_headers_complete

    def answers_at_once(self: HttpToolsProtocol) -> None:
        self.cycle = None
        whole(self)

    monkeypatch.setattr(HttpToolsProtocol, "on_headers_complete", answers_at_once)


def no_waiting_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpToolsProtocol, "shutdown", lambda self: self.transport.close())


@pytest.mark.parametrize("change", [no_callback, another_order, no_waiting_at_the_end])
def test_one_that_has_changed_is_served_without_it_and_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change
) -> None:
    change(monkeypatch)
    assert serve._protocol(True) is HttpToolsProtocol
    assert "warning: " in (said := capsys.readouterr().err) and "uvicorn" in said and "fast lane" in said


def test_the_fast_lane_can_be_turned_off_and_the_limits_stay() -> None:
    assert (serve._protocol(True), serve._protocol(False)) == (FastLane, GuardedProtocol)
