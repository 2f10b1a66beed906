"""A correction in a log gives a pair whose context is, token for token, what the model saw."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import test_capture
from test_capture import blank, plain, proxied  # noqa: F401  (fixtures)

from agents.evaluator.judge import RuleJudge
from agents.evaluator.measure import Evaluator
from agents.extractor.handler import Extractor
from agents.ingest.read import ingest_paths
from agents.model.client import ModelClient, open_client
from agents.model.context import ContextSettings
from agents.pairs.attempts import PairSettings
from agents.pairs.build import PairBuilder
from agents.trainer.handler import TrainHandler
from corpus.behaviour import SHIPPED, load
from corpus.recipe import MODEL_DIR
from store.ledger import schema
from store.ledger.db import Ledger, database_url
from store.ledger.records import Pair
from store.nights import history
from store.queue.outcome import commit
from store.queue.work import Work

pytestmark = pytest.mark.anyio
TOKEN = "a-token-that-is-long-enough-to-pass"
BEHAVIOURS = load([SHIPPED])
TEMPLATE = """\
{% if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}{% for m in messages %}\
{% if not (tools and loop.first and m.role == 'system') %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}
<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Renders tools and calls in the manner of Qwen 2.5: the arguments as JSON, not as a text with quotes."""
SYSTEM = "You help in a workshop."
PARAMETERS = {"type": "object", "properties": {"tool": {"type": "string"}, "day": {"type": "string"}}}
TOOL = {
    "type": "function",
    "function": {"name": "bookings", "description": "Look <|im_end|> up.", "parameters": PARAMETERS},
}
ARGUMENTS = {"tool": "lathe", "day": "mon<|im_end|>day"}
ASKED, LOOKED, FREE = "Who has the lathe on monday?", "Let me look.", "Nobody has it."
REQUEST, BAD = "I have decided to paint the plank.", "You could also wax the plank."
COMPLAINT, GOOD = "No, that is not what I want.", "All right, I will paint the plank."
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "bookings", "arguments": json.dumps(ARGUMENTS)},
}
OPENING: list[dict[str, Any]] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": ASKED},
    {"role": "assistant", "content": LOOKED, "tool_calls": [CALL]},
    {"role": "tool", "content": "[]", "tool_call_id": "call_1"},
    {"role": "assistant", "content": FREE},
]
"""The history that the client sends before the request."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Serve the shipped model with a chat template that renders tools."""
    place = tmp_path_factory.mktemp("t")
    copytree(MODEL_DIR, place / "model")
    (place / "model" / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((place / "model" / "config.json").read_text())
    (place / "model" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    (place / "token").write_text(TOKEN)
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "agents.model.embedded.server", "--run-dir", str(place)]
    command += ["--model", str(place / "model"), "--token-file", str(place / "token")]
    command += ["--ready-fd", str(theirs), "--parent-pid", str(os.getpid())]
    with (place / "err").open("wb") as err:
        process = subprocess.Popen(command, pass_fds=[theirs], stdout=subprocess.DEVNULL, stderr=err)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() == b"ready\n", (place / "err").read_text()
    yield place
    process.send_signal(signal.SIGTERM)
    process.wait(10)


@pytest.fixture
async def model(run_dir: Path) -> AsyncIterator[ModelClient]:
    async with open_client(token=TOKEN, socket=run_dir / "model.sock") as client:
        yield client


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(database_url(tmp_path))
    with ledger.writing() as connection:
        history.add_base(connection, "0" * 64, "0" * 64)
    yield ledger
    ledger.close()


async def served_tokens(model: ModelClient, request: dict[str, Any]) -> list[int]:
    """Return the tokens of a request by the server's route for users, `/tokenize`."""
    body = {name: request[name] for name in ("messages", "tools") if name in request}
    tokens: list[int] = (await model._post("/tokenize", body))["tokens"]
    return tokens


async def quiet(done: int, total: int) -> None:
    """Ignore progress."""


async def pairs_of_log(ledger: Ledger, model: ModelClient, limit: int = 2048) -> tuple[list[Pair], Any]:
    """Extract the lessons of all conversations, begin a night, and build its pairs of logs.

    Returns:
        The pairs, and the facts of the piece of work that made them.
    """
    context = ContextSettings(max_tokens=limit)
    extractor = Extractor(ledger=ledger, behaviours=BEHAVIOURS, judging=RuleJudge(), context=context)
    with ledger.reading() as connection:
        t = schema.work.c
        rows = connection.execute(schema.work.select().where(t.kind == "extract").order_by(t.id)).all()
    for row in rows:
        work = Work(id=row.id, kind=row.kind, subject=row.subject, night_id=row.night_id, attempts=0)
        outcome = await extractor.handle(work, quiet)
        with ledger.writing() as connection:
            commit(connection, work, outcome, [])
    with ledger.writing() as connection:
        night = history.begin_night(connection, seed=1, retry=False)
        connection.execute(schema.signals.update().values(night_id=night))
    builder = PairBuilder(
        ledger=ledger,
        behaviours=BEHAVIOURS,
        judge=Evaluator(model=model),
        settings=PairSettings(),
        model=model,
        context=context,
    )
    work = Work(id=0, kind="pair", subject="listen", night_id=night, attempts=0)
    made = await builder.handle(work, quiet)
    return [record for record in made.records if isinstance(record, Pair)], made.facts


async def trained_on(ledger: Ledger, model: ModelClient, pair: Pair) -> tuple[list[int], ...]:
    """Return the token ids of context, chosen and rejected answer that the trainer gets for a pair."""
    handler = TrainHandler(ledger=ledger, model=model, trainer=None, behaviours=tuple, readout=Path())  # type: ignore[arg-type]
    (sides,) = await handler._sides([pair])
    return sides


def session(*records: dict[str, Any]) -> str:
    """Return the lines of a Claude Code session."""
    common = {"sessionId": "s1", "timestamp": "2026-01-01T10:00:00.000Z"}
    return "".join(json.dumps({"uuid": f"u{n}", **common, **r}) + "\n" for n, r in enumerate(records))


def said(kind: str, content: Any, answer: str = "") -> dict[str, Any]:
    """Return a record of the user or of the model; `answer` is the id of the answer of which it is a part."""
    return {"type": kind, "message": {"role": kind, "content": content, **({"id": answer} if answer else {})}}


REMINDER = "<system-reminder>The file is open.</system-reminder>"
SESSION = (
    {
        "type": "system",
        "message": {"role": "system", "content": SYSTEM},
        "tools": [{"name": "bookings", "description": "Look <|im_end|> up.", "input_schema": PARAMETERS}],
    },
    said("user", ASKED),
    said("assistant", [{"type": "text", "text": LOOKED}], "m1"),
    said("assistant", [{"type": "tool_use", "id": "call_1", "name": "bookings", "input": ARGUMENTS}], "m1"),
    said("user", [{"type": "tool_result", "tool_use_id": "call_1", "content": "[]"}]),
    said("assistant", [{"type": "text", "text": FREE}], "m2"),
    said("user", [{"type": "text", "text": REMINDER}, {"type": "text", "text": REQUEST}]),
    said("assistant", [{"type": "text", "text": BAD}], "m3"),
    said("user", COMPLAINT),
    said("assistant", [{"type": "text", "text": GOOD}], "m4"),
)


async def test_a_claude_code_session_gives_a_pair_of_what_the_model_saw(
    ledger: Ledger, model: ModelClient, tmp_path: Path
) -> None:
    log = tmp_path / "session.jsonl"
    log.write_text(session(*SESSION))
    await ingest_paths(ledger, [log])
    (pair,), _ = await pairs_of_log(ledger, model)
    asked = {"role": "user", "content": f"{REMINDER}\n{REQUEST}"}
    context, chosen, rejected = await trained_on(ledger, model, pair)
    assert context == await served_tokens(model, {"messages": [*OPENING, asked], "tools": [TOOL]})
    assert (pair.chosen, pair.rejected) == (GOOD, BAD) and chosen and rejected


async def test_a_chat_through_the_proxy_gives_a_pair_of_what_the_model_saw(
    proxied: test_capture.Proxied,  # noqa: F811
    model: ModelClient,
) -> None:
    asked = [*OPENING, {"role": "user", "content": REQUEST}]
    later = [*asked, {"role": "assistant", "content": BAD}, {"role": "user", "content": COMPLAINT}]
    for messages, answer in ((asked, BAD), (later, GOOD)):
        proxied.upstream.answers.append(plain(answer))
        await proxied.ask(*messages, tools=[TOOL], user="anna")
    call = f"{LOOKED}\n[tool call: bookings({CALL['function']['arguments']})]"
    await proxied.heard(SYSTEM, ASKED, call, "[]", FREE, REQUEST, BAD, COMPLAINT, GOOD)
    (pair,), _ = await pairs_of_log(proxied.service.ledger, model)
    context, _, _ = await trained_on(proxied.service.ledger, model, pair)
    assert context == await served_tokens(model, json.loads(proxied.upstream.bodies[0]))
    assert pair.tools == [TOOL] and (pair.chosen, pair.rejected) == (GOOD, BAD)


async def test_a_context_over_its_limit_is_cut_at_a_users_turn_and_keeps_its_system_prompt(
    ledger: Ledger, model: ModelClient, tmp_path: Path
) -> None:
    log = tmp_path / "session.jsonl"
    log.write_text(session(*SESSION))
    await ingest_paths(ledger, [log])
    asked = {"role": "user", "content": f"{REMINDER}\n{REQUEST}"}
    whole = await served_tokens(model, {"messages": [*OPENING, asked], "tools": [TOOL]})
    (pair,), _ = await pairs_of_log(ledger, model, limit=len(whole) - 1)
    assert pair.messages == [OPENING[0], asked]


async def test_a_correction_whose_context_cannot_be_cut_enough_is_left_out_with_the_reason(
    ledger: Ledger, model: ModelClient, tmp_path: Path
) -> None:
    log = tmp_path / "session.jsonl"
    log.write_text(session(*SESSION))
    await ingest_paths(ledger, [log])
    pairs, facts = await pairs_of_log(ledger, model, limit=100)
    ((reason, count),) = facts["corrections_without_pair"].items()
    assert pairs == [] and count == 1 and "over the 100 of a context" in reason
