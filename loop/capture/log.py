"""Captured exchanges into the inbox, where they are followed like any other log; and what became of each.

    HOME/inbox/captured-YYYY-MM-DD.jsonl   a line an exchange, by the day (UTC) on which it began, mode 0600

Invariant: one writer, whole lines only; a line counts as captured once it is on the disk, and what a crash left
of one does not reach into the next. A disk that is full or slow costs the capture, never the answer. What is
captured holds the words as they were said: secrets go when ingest reads it. Does not know who may ask.
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

from agents.ingest.files import stored_path
from corpus.errors import WriteFailed
from corpus.formats import openai
from corpus.lines import BadLine, RawLine, decode
from loop.capture.exchange import REASONS, ChatRequest, Refusal, as_line, parse_response
from store.conversations import conversations as kept
from store.files import durable
from store.ledger.db import Ledger

MAX_HELD = 256 * 2**20
"""Bytes of exchanges that wait for the disk; what comes beyond is not captured."""
MAX_FATES = 10_000
"""Receipts whose fate is remembered in memory: those that are under way, and those that came to nothing."""

WRITING = threading.Lock()
"""Held while a captured log is written: whoever writes one anew must not lose a line that comes meanwhile."""

_RECEIPT = re.compile(r"(\d{4})(\d\d)(\d\d)-[0-9a-f]{16}", re.ASCII)

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and its answer, as they went through."""

    receipt: str
    request: ChatRequest
    source: str
    """Who asked, where the request does not say."""
    session: str
    raw: bytes
    """The body of the answer."""
    streamed: bool
    at: datetime
    """When it ended."""

    def line(self) -> bytes | Refusal:
        """The line of the log."""
        answer = parse_response(self.raw, streamed=self.streamed)
        if isinstance(answer, Refusal):
            return answer
        return as_line(
            self.request, answer, receipt=self.receipt, source=self.source, session=self.session, at=self.at
        )


class Capture:
    """The one writer of the captured logs; `run` must run somewhere."""

    def __init__(self, inbox: Path, ledger: Ledger) -> None:
        self._inbox = inbox
        self._ledger = ledger
        self._held = 0
        self._fates: OrderedDict[str, str] = OrderedDict()
        self._send, self._receive = anyio.create_memory_object_stream[Exchange](math.inf)

    def begin(self) -> str:
        """The receipt of an exchange that begins."""
        receipt = f"{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(8)}"
        self._remember(receipt, "")
        return receipt

    def refuse(self, receipt: str, word: str) -> None:
        """Say that an exchange is not captured, and why: one of REASONS."""
        self._remember(receipt, word)

    def take(self, exchange: Exchange) -> None:
        """Capture an exchange, soon."""
        if self._held + len(exchange.raw) > MAX_HELD:
            self.refuse(exchange.receipt, "disk")
            return
        try:
            self._send.send_nowait(exchange)
            self._held += len(exchange.raw)
        except anyio.ClosedResourceError:  # the service is stopping
            self.refuse(exchange.receipt, "disk")

    async def run(self) -> None:
        """Write what is taken, until cancelled; then what is left of it."""
        with self._send, self._receive:
            try:
                while True:
                    await self._write([await self._receive.receive(), *self._waiting()])
            finally:
                with anyio.CancelScope(shield=True):
                    await self._write(list(self._waiting()))

    async def told(self, receipt: str) -> dict[str, Any] | None:
        """What became of an exchange; None for what is no receipt."""
        found = _RECEIPT.fullmatch(receipt)
        if not found:
            return None
        state, conversation, reason = await anyio.to_thread.run_sync(
            self._look, receipt, "-".join(found.groups())
        )
        return {"receipt": receipt, "state": state, "conversation": conversation, "reason": reason}

    def _waiting(self) -> Iterable[Exchange]:
        """What has been taken and not yet been written."""
        while self._receive.statistics().current_buffer_used:
            yield self._receive.receive_nowait()

    async def _write(self, exchanges: list[Exchange]) -> None:
        """Write these, in a thread, and note what came of each."""
        for receipt, word in (await anyio.to_thread.run_sync(self._written, exchanges)).items():
            if word:
                self.refuse(receipt, word)
            else:
                self._fates.pop(receipt, None)
        self._held -= sum(len(exchange.raw) for exchange in exchanges)

    def _written(self, exchanges: list[Exchange]) -> dict[str, str]:
        """Append the lines of these; the word of each refusal, "" for what is on the disk."""
        words: dict[str, str] = {}
        files: dict[Path, dict[str, bytes]] = {}
        for exchange in exchanges:
            line = exchange.line()
            words[exchange.receipt] = line.word if isinstance(line, Refusal) else ""
            if isinstance(line, bytes):
                place = self._file("-".join(_RECEIPT.fullmatch(exchange.receipt).groups()))  # type: ignore[union-attr]
                files.setdefault(place, {})[exchange.receipt] = line
        for place, lines in files.items():
            try:
                append(place, b"".join(lines.values()))
            except WriteFailed as error:
                log.warning(
                    "captured conversations are lost", lines=len(lines), file=str(place), error=str(error)
                )
                words |= dict.fromkeys(lines, "disk")
        return words

    def _look(self, receipt: str, day: str) -> tuple[str, str | None, str]:
        """State, conversation and reason."""
        place = self._file(day)
        line = _find(place, receipt)
        with self._ledger.reading() as connection:
            if line is None:
                conversation_id = kept.conversation_of(connection, receipt)
            else:
                state = kept.file_state(connection, stored_path(place))
                if state is None or state.line < line.number:
                    return "captured", None, "its line is in the inbox; the service reads it next"
                said = openai.read(decode(line), line.number)
                conversation_id = (
                    None if said is None or isinstance(said, BadLine) else kept.find(connection, said)
                )
        if conversation_id is not None:
            return "ingested", conversation_id, ""
        word = self._fates.get(receipt)
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
        self._fates[receipt] = word
        if len(self._fates) > MAX_FATES:
            self._fates.popitem(last=False)


def append(path: Path, lines: bytes) -> None:
    """Put whole lines at the end of a file, durably; of what cannot be written nothing stays."""
    with WRITING:
        durable.append(path, lines, "captured log")


def logs(inbox: Path) -> list[Path]:
    """The captured logs, oldest first."""
    return sorted(inbox.glob("captured-*.jsonl"))


def blank(path: Path, numbers: Collection[int]) -> list[tuple[int, int]]:
    """Empty these lines of a captured log; returns the number of each and the bytes that went with it.

    The newlines stay: the ledger names lines by their numbers. The file is replaced whole, by one that is on the
    disk. The caller holds WRITING.
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
    """Remove what a crash left of a captured log that was being written anew."""
    durable.remove(durable.leftovers(inbox), "orphans")


def _find(path: Path, receipt: str) -> RawLine | None:
    """The line with this receipt."""
    mark = f'"receipt": "{receipt}"'.encode()
    try:
        with path.open("rb") as stream:
            for number, data in enumerate(iter(partial(stream.readline), b""), start=1):
                if mark in data and data.endswith(b"\n"):
                    return RawLine(number=number, data=data[:-1], end=stream.tell())
    except OSError:  # removed, or of a home that never captured
        return None
    return None
