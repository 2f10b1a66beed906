"""`status` and `ledger why`: the state of a home, and the origins of its updates and pairs.

Invariant: these commands change nothing and need no service. If no service answers in time, they read the
ledger themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import Connection

from corpus.json_edge import from_json
from loop.config import load_settings
from loop.operations.results.home import ServiceStatus, StatusReport, UpdateOrigins
from loop.operations.sweep import check_prediction
from loop.verdict.course import courses
from store import belonging, queries
from store.checkpoints.store import CheckpointStore
from store.home import Home, find, is_held
from store.ledger.db import Ledger, database_url
from store.nights import report
from store.nights.results import WhyPair, WhyUpdate

ANSWER_S = 2.0
"""Seconds that a service may take to answer."""


@contextmanager
def ledger_of(home: Home) -> Iterator[Connection]:
    """Yield a connection that reads a home's ledger, whether a service runs or not."""
    ledger = Ledger(database_url(home.path, load_settings(home.config_file).database))
    try:
        with ledger.reading() as connection:
            yield connection
    finally:
        ledger.close()


def status(option: Path | None) -> StatusReport:
    """Return the state of the home.

    Args:
        option: The home that the user names; None for the default one.
    """
    home = find(option)
    answer = _ask_service(home)
    if answer is not None:
        return StatusReport(service="up", **vars(answer))
    with ledger_of(home) as connection:
        state = report.status(connection)
        paused = queries.is_paused(connection)
        belongs = belonging.problem(connection, CheckpointStore(home.checkpoints))
    reason = (
        "paused: `nightschool resume` to go on" if paused else "no service runs: `nightschool run` or `night`"
    )
    service = "busy" if is_held(home) else "down"
    problems = [belongs.text] if belongs else []
    return StatusReport(service=service, **vars(state), next_update_reason=reason, problems=problems)


def _ask_service(home: Home) -> ServiceStatus | None:
    """Return the state that the home's service reports; None if no service answers."""
    if not home.control_socket.exists():
        return None
    transport = httpx.HTTPTransport(uds=str(home.control_socket))
    headers = {"Authorization": f"Bearer {home.token()}"}
    with httpx.Client(transport=transport, headers=headers, timeout=ANSWER_S, trust_env=False) as client:
        try:
            answer = client.get("http://nightschool/status")
            result: ServiceStatus | None = (
                from_json(ServiceStatus, answer.json()) if answer.is_success else None
            )
        except (httpx.TransportError, ValueError):
            return None
    return result


def why(connection: Connection, wanted: str) -> UpdateOrigins | WhyPair:
    """Return the origins of an update or a pair, back to the log lines that it came from.

    Args:
        connection: The ledger.
        wanted: Id of the update or pair.
    """
    origins = report.why(connection, wanted)
    if not isinstance(origins, WhyUpdate):
        return origins
    verdict = queries.verdict(connection, origins.update.id)
    return UpdateOrigins(
        update=origins.update,
        pairs=origins.pairs,
        predictions=[check_prediction(row) for row in origins.predictions],
        log_lines=origins.log_lines,
        evidence=courses([] if verdict is None else verdict.tests) or None,
    )
