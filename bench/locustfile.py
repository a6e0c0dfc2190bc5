"""The locust benchmark: an open loop of buyers on the reference shop's steps, judged by itself. See docs/locust.md.

A locust user here is a source of arrivals, not a buyer: all sources together send `--arrival-rate` buyers a second,
however slowly the gate answers. The process that shows the results adds up what all processes saw, and judges.
"""

import json
import os
import sys
import time
from random import Random
from typing import Any

import gevent
from gevent.event import AsyncResult
from gevent.lock import RLock
from locust import User, events, task
from locust.contrib.fasthttp import FastHttpSession
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from bench.arrivals import arrivals, kind
from bench.buyers import FINISH_WITHIN, READ_WITHIN, Crowd
from bench.running import Target, Unusable, find_target, how_to_make, read_pages
from bench.verdict import Limits, Seen, judge, summary
from gatekeeper.cli.context import running_stack
from gatekeeper.demo.steps import NO_ANSWER, Answer

RUN_SECONDS = 30
"""How long a headless run lasts when nobody says."""
ANSWER_WITHIN = 10.0
"""Seconds for one request."""
MISUSE = 2
"""Exit code: there is nothing to buy from."""


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Add our own arguments, and defaults that stay on this machine."""
    add = parser.add_argument
    add("--sale", default="", include_in_web_ui=False, help="Which sale to buy from: its units are really sold.")
    add("--arrival-rate", type=float, default=50.0, help="Buyers a second, of all processes together.")
    add("--retries", type=float, default=0.2, help="Share of buyers who double-click and reload, 0 to 1.")
    add("--bots", type=float, default=0.02, help="Share of buyers that are bots: 20 purchases at once.")
    add("--max-active", type=int, default=1000, help="Buyers at a time, per process.")
    add("--max-p99-ms", type=float, default=0.0, help="Fail when the p99 of purchases is over it; 0: any will do.")
    add("--max-errors", type=float, default=0.01, help="Fail when more requests are answered 5xx or not; a share.")
    report = f"bench/results/locust-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.html"
    parser.set_defaults(html_file=report, web_host="127.0.0.1", master_bind_host="127.0.0.1")


class Run:
    """This process's part of the benchmark; a web UI may start and stop it several times."""

    def __init__(self, environment: Any, target: Target, pages: list[dict[str, Any]]) -> None:
        self.environment, self.target = environment, target
        self.skus = [sku["sku"] for page in pages for sku in page["skus"]]
        self.crowd: Crowd | None = None
        self.reports: dict[str, dict[str, Any]] = {}
        """What each worker saw."""
        self._workers: set[str] = set()
        self._ending = RLock()
        """Ctrl-C may come while the run ends by itself: it then waits for that end."""
        self.text = ""

    @property
    def options(self) -> Any:
        return self.environment.parsed_options

    def begin(self) -> None:
        """A test starts."""
        runner = self.environment.runner
        self.reports.clear()
        if not isinstance(runner, WorkerRunner):
            self.options.sources = runner.target_user_count  # locust hands it to the workers, with our arguments
        if isinstance(runner, MasterRunner):
            self._workers = {worker.id for worker in runner.clients.ready}
        self.crowd = Crowd(self.options.sale, self.target.shop_key, self.skus, self.options.max_active)
        # A bot's clicks go out at once: connections must not be what makes them wait.
        self._session = FastHttpSession(
            self.environment.host, self.environment.events.request, None, concurrency=2 * self.options.max_active,
            network_timeout=ANSWER_WITHIN, connection_timeout=ANSWER_WITHIN,
        )  # fmt: skip

    def send(self, path: str, name: str, body: bytes | None, headers: dict[str, str], late: float) -> Answer:
        """One request, entered into locust's statistics; a refusal is an answer, a 5xx is a failure."""
        method = "GET" if body is None else "POST"
        with self._session.request(
            method, path, name=name, data=body, headers=headers, catch_response=True
        ) as response:
            response.request_meta["response_time"] += late
            answer = _answer(response)
            if answer.status in (200, 201, 409):
                response.success()
            else:
                response.failure(f"{answer.status} {answer.body.get('code', '')}" if answer.status else "no answer")
        return answer

    def end(self) -> None:
        """The test is over: add up and judge. Once per test, from whichever event is first."""
        with self._ending:
            if self.crowd is not None:
                self._judge(self._gather() if self._workers else self.crowd.finish(self.send))
                self.crowd = None

    def _judge(self, seen: Seen) -> None:
        missing = len(self._workers - self.reports.keys())
        try:
            pages = read_pages(self.target, self.options.sale)
        except Unusable:
            pages = None
        limits = Limits(self.options.max_p99_ms or None, self.options.max_errors)
        verdict = judge(seen, pages, limits, missing=missing)
        self.text = summary(seen, verdict)
        self.environment.process_exit_code = max(self.environment.process_exit_code or 0, verdict.code)
        if not self.options.headless:
            print(f"\n{self.text}\n", file=sys.stderr, flush=True)

    def _gather(self) -> Seen:
        """Ask the workers to finish and add up what they saw. Bounded."""
        self.environment.runner.send_message("gatekeeper-finish")
        deadline = time.monotonic() + FINISH_WITHIN + READ_WITHIN + 5
        while self._workers - self.reports.keys() and time.monotonic() < deadline:
            gevent.sleep(0.05)
        total = Seen()
        for report in self.reports.values():
            total.add(report)
        return total

    def report(self, **_: Any) -> None:
        """On a worker: the master, or a Ctrl-C, asks to finish and to say what was seen."""
        with self._ending:
            if self.crowd is not None:
                self.environment.runner.send_message("gatekeeper-seen", self.crowd.finish(self.send).plain())
                self.crowd = None

    def hear(self, msg: Any, **_: Any) -> None:
        """On the master: a worker says what it saw."""
        self.reports[msg.node_id] = msg.data


def _answer(response: Any) -> Answer:
    try:
        body = json.loads(response.content) if response.status_code else None
    except (ValueError, TypeError):
        body = None
    if not isinstance(body, dict):
        return NO_ANSWER
    return Answer(response.status_code, body, response.headers.get("Idempotent-Replayed") == "true")


@events.init.add_listener
def prepare(environment: Any, runner: Any, **_: Any) -> None:
    """Find gate and sale before anything starts; there is no benchmark without them."""
    options, worker = environment.parsed_options, isinstance(runner, WorkerRunner)
    ready = AsyncResult()  # the master may start a worker that still looks for its gate: its buyers then wait
    environment.events.test_start.add_listener(lambda **_: ready.get().begin())
    try:
        if not options.sale:
            raise Unusable("--sale NAME says which sale to buy from; " + how_to_make("rush"))
        target = find_target(environment.host, os.environ, running_stack())
        run = Run(environment, target, read_pages(target, options.sale))
    except Unusable as trouble:
        if not (worker and options.processes):  # the master says the same
            print(f"error: {trouble}", file=sys.stderr)
        sys.exit(0 if worker else MISUSE)
    environment.host = target.url
    Source.run_of_process = run
    if worker:
        options.html_file = None
        runner.register_message("gatekeeper-finish", run.report, concurrent=True)
        environment.events.quitting.add_listener(run.report)
        ready.set(run)
        return
    ready.set(run)
    environment.events.test_stopping.add_listener(lambda **_: run.end())
    environment.events.quitting.add_listener(lambda **_: run.end())  # Ctrl-C, SIGTERM
    environment.events.quit.add_listener(lambda **_: _say(run))
    if isinstance(runner, MasterRunner):
        runner.register_message("gatekeeper-seen", run.hear)
    if options.num_users is None:  # every process needs a source
        options.num_users = options.spawn_rate = max(options.processes or 1, options.expect_workers)
    if options.headless and not options.run_time:
        options.run_time = RUN_SECONDS


def _say(run: Run) -> None:
    """The last words of a headless run."""
    if run.options.headless and run.text:
        print(run.text)
    if run.options.html_file and os.path.exists(run.options.html_file):
        print(f"report    {run.options.html_file}", flush=True)


class Source(User):
    """Sends buyers on its share of the schedule and waits for none of them."""

    run_of_process: Run

    @task
    def send_buyers(self) -> None:
        """Until the test is over."""
        run, luck = self.run_of_process, Random()
        crowd, options = run.crowd, run.options
        if crowd is None:
            raise StopUser
        started = time.monotonic()
        for at in arrivals(options.arrival_rate / options.sources, luck):
            due = started + at
            if crowd.closing.wait(max(0.0, due - time.monotonic())):
                if due > crowd.closed_at:
                    raise StopUser
                crowd.seen.scheduled += 1  # should have come before the end, had this process not been busy
                continue
            crowd.come(kind(luck, retries=options.retries, bots=options.bots), due, run.send)
