"""The captured logs in the inbox, which ingest reads, and the state of each captured exchange.

    HOME/inbox/captured-YYYY-MM-DD.jsonl   one line for each exchange that began on this day (UTC), mode 0600

Every exchange has a receipt, an id by which a user can ask for the state of the exchange.

Invariant: there is one writer, and it writes complete lines only. A line counts as captured once it is on the
disk. If a crash cuts a line off, the next line still begins on a new line. If the disk is full or slow,
exchanges are not captured, but answers are not affected. Secrets are removed from a line before it
is written. This module does not know who may ask for the state of an exchange.
"""

import math
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import structlog

from agents.ingest.sources import stored_path
from corpus.conversation import Conversation
from corpus.errors import WriteFailed
from corpus.formats.interfaces import openai
from corpus.lines import RawLine, decode
from corpus.scrub.patterns import Clean, scrub
from loop.capture.exchange import REASONS, ChatRequest, Refusal, as_line, parse_response
from store.conversations import conversations as kept
from store.conversations import files as kept_files
from store.files import durable
from store.ledger.db import Ledger

MAX_HELD = 256 * 2**20
"""Largest number of bytes of exchanges that wait to be written. Further exchanges are not captured."""
MAX_STATES = 10_000
"""Largest number of receipts in memory. They belong to exchanges that are under way or were not captured."""

WRITING = threading.Lock()
"""Lock that is held while a captured log is appended to or rewritten, so that a rewrite loses no new line."""

_RECEIPT = re.compile(r"(\d{4})(\d\d)(\d\d)-[0-9a-f]{16}", re.ASCII)

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and its answer, as the proxy passed them on."""

    receipt: str
    request: ChatRequest
    source: str
    """Name of the caller, which is used if the request names no user."""
    session: str
    """The client's id of the conversation; "" if the client sent none."""
    raw: bytes
    """The body of the answer."""
    streamed: bool
    """Whether the body is a stream of server-sent events."""
    at: datetime
    """The time at which the answer ended."""

    def line(self, clean: Clean = scrub) -> bytes | Refusal:
        """Return the log's line for this exchange, without what `clean` removes, or why there is none."""
        answer = parse_response(self.raw, streamed=self.streamed)
        if isinstance(answer, Refusal):
            return answer
        return as_line(
            self.request,
            answer,
            receipt=self.receipt,
            source=self.source,
            session=self.session,
            at=self.at,
            clean=clean,
        )


class Capture:
    """The only writer of the captured logs. Exchanges are queued, and `run` writes them."""

    def __init__(self, inbox: Path, ledger: Ledger, clean: Clean = scrub) -> None:
        """Write to the logs in `inbox` what `clean` leaves of the texts."""
        self._inbox = inbox
        self._ledger = ledger
        self._clean = clean
        self._held = 0
        self.fault = ""
        """Why the last exchanges could not be written, for the user; "" if they could."""
        self._states: OrderedDict[str, str] = OrderedDict()
        self._send, self._receive = anyio.create_memory_object_stream[Exchange](math.inf)

    def begin(self) -> str:
        """Return a new receipt for an exchange that begins now."""
        receipt = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(8)}"
        self._remember(receipt, "")
        return receipt

    def refuse(self, receipt: str, word: str) -> None:
        """Record that an exchange is not captured; `word` is the reason, a key of REASONS."""
        self._remember(receipt, word)

    def take(self, exchange: Exchange) -> None:
        """Queue an exchange to be written, or refuse it if the queue is full or closed."""
        if self._held + len(exchange.raw) > MAX_HELD:
            self.refuse(exchange.receipt, "disk")
            return
        try:
            self._send.send_nowait(exchange)
            self._held += len(exchange.raw)
        except anyio.ClosedResourceError:  # the service is stopping
            self.refuse(exchange.receipt, "disk")

    async def run(self) -> None:
        """Write queued exchanges until cancelled; then write those that are still in the queue."""
        with self._send, self._receive:
            try:
                while True:
                    await self._write([await self._receive.receive(), *self._queued()])
            finally:
                with anyio.CancelScope(shield=True):
                    await self._write(list(self._queued()))

    async def state_of(self, receipt: str) -> dict[str, Any] | None:
        """Return the state of the exchange with this receipt, as JSON; None if the text is not a receipt."""
        match = _RECEIPT.fullmatch(receipt)
        if not match:
            return None
        state, conversation, reason = await anyio.to_thread.run_sync(
            self._find_state, receipt, "-".join(match.groups())
        )
        return {"receipt": receipt, "state": state, "conversation": conversation, "reason": reason}

    def _queued(self) -> Iterable[Exchange]:
        """Take the exchanges out of the queue and yield them, until the queue is empty."""
        while self._receive.statistics().current_buffer_used:
            yield self._receive.receive_nowait()

    async def _write(self, exchanges: list[Exchange]) -> None:
        """Write these exchanges in a thread, and record which of them were refused."""
        for receipt, word in (await anyio.to_thread.run_sync(self._append, exchanges)).items():
            if word:
                self.refuse(receipt, word)
            else:
                self._states.pop(receipt, None)
        self._held -= sum(len(exchange.raw) for exchange in exchanges)

    def _append(self, exchanges: list[Exchange]) -> dict[str, str]:
        """Append the lines of these exchanges to the captured logs.

        Returns:
            By receipt, "" for an exchange whose line is on the disk, else the reason, a key of REASONS.
        """
        words: dict[str, str] = {}
        files: dict[Path, dict[str, bytes]] = {}
        for exchange in exchanges:
            line = exchange.line(self._clean)
            words[exchange.receipt] = line.word if isinstance(line, Refusal) else ""
            if isinstance(line, bytes):
                place = self._file("-".join(_RECEIPT.fullmatch(exchange.receipt).groups()))  # type: ignore[union-attr]
                files.setdefault(place, {})[exchange.receipt] = line
        for place, lines in files.items():
            try:
                append(place, b"".join(lines.values()))
                self.fault = ""
            except WriteFailed as error:
                log.warning(
                    "captured conversations are lost", lines=len(lines), file=str(place), error=str(error)
                )
                words |= dict.fromkeys(lines, "disk")
                self.fault = f"conversations are not captured: {error}"
        return words

    def _find_state(self, receipt: str, day: str) -> tuple[str, str | None, str]:
        """Return the state of an exchange, the id of its conversation (or None) and an explanation (or "").

        day: the day on which the exchange began, as YYYY-MM-DD.
        """
        place = self._file(day)
        line = _find(place, receipt)
        with self._ledger.reading() as connection:
            if line is None:
                conversation_id = kept.conversation_of(connection, receipt)
            else:
                state = kept_files.file_state(connection, stored_path(place))
                if state is None or state.line < line.number:
                    return "captured", None, "its line is in the inbox; the service reads it next"
                conversation = openai.read(decode(line), line.number)
                conversation_id = None
                if isinstance(conversation, Conversation):
                    conversation_id = kept.find(connection, conversation)
        if conversation_id is not None:
            return "ingested", conversation_id, ""
        word = self._states.get(receipt)
        if word == "":
            return "pending", None, "the answer is under way, or its line to the disk"
        return (
            "not captured",
            None,
            REASONS[word] if word else "nothing is known of it: it may have been lost",
        )

    def _file(self, day: str) -> Path:
        return self._inbox / f"captured-{day}.jsonl"

    def _remember(self, receipt: str, word: str) -> None:
        self._states[receipt] = word
        if len(self._states) > MAX_STATES:
            self._states.popitem(last=False)


def append(path: Path, lines: bytes) -> None:
    """Append complete lines to a captured log and sync it; a failure leaves the log as it was."""
    with WRITING:
        durable.append(path, lines, "captured log")


def logs(inbox: Path) -> list[Path]:
    """Return the paths of all captured logs, oldest first."""
    return sorted(inbox.glob("captured-*.jsonl"))


def blank(path: Path, numbers: Collection[int]) -> list[tuple[int, int]]:
    """Empty the lines with these numbers in a captured log.

    Their newlines stay, because the ledger refers to lines by number. The log is replaced in one step by a
    new file that is already on the disk. The caller must hold WRITING.

    Returns:
        For each emptied line, its number and how many bytes were removed.
    """
    cut = list[tuple[int, int]]()
    with path.open("rb") as old, durable.new_file(path.parent, "log") as new:
        for number, data in enumerate(iter(old.readline, b""), start=1):
            if number in numbers:
                cut.append((number, len(data) - 1))
            new.write(b"\n" if number in numbers else data)
        new.keep(path.name)
    return cut


def sweep(inbox: Path) -> None:
    """Remove temporary files from the inbox, which remain if a rewrite of a captured log is interrupted."""
    durable.remove(durable.leftovers(inbox), "orphans")


def _find(path: Path, receipt: str) -> RawLine | None:
    """Return the complete line with this receipt in a captured log; None if there is none."""
    mark = f'"receipt": "{receipt}"'.encode()
    try:
        with path.open("rb") as stream:
            for number, data in enumerate(iter(partial(stream.readline), b""), start=1):
                if mark in data and data.endswith(b"\n"):
                    return RawLine(number=number, data=data[:-1], end=stream.tell())
    except OSError:  # the log was removed, or never existed
        return None
    return None
