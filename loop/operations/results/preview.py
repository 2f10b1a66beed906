"""What an ingest read, or would read and find, as the records of `ingest` and `ingest --preview`.

Invariant: a preview needs no home and writes nothing. It reads the files by the code of an ingest, and finds
signals by the rules of the extractor, without the behaviours and the model that a home may have.
"""

from pathlib import Path

from agents.extractor.rules import find
from agents.ingest.peek import preview
from agents.ingest.read import options_of
from agents.ingest.report import IngestReport
from corpus.conversation import Conversation
from loop.operations.results.home import (
    ConversationCount,
    Ingested,
    PreviewConversation,
    Previewed,
    PreviewFile,
    PreviewSignal,
    PreviewTurn,
    ReadFile,
    SetAsideLine,
    SkippedLog,
)


def ingested(report: IngestReport) -> Ingested:
    """Return the result of an ingest."""
    return Ingested(
        files=[
            ReadFile(path=file.path, format=file.format, encoding=file.encoding, compression=file.compression)
            for file in report.files
        ],
        conversations=ConversationCount(new=report.new, known=report.known),
        turns=report.turns,
        forgotten=report.forgotten,
        set_aside=_set_aside(report),
        waiting=list(report.waiting),
        skipped=_skipped(report),
    )


def previewed(paths: list[Path], format: str | None = None, ratings: str = "") -> Previewed:
    """Return what an ingest of these paths would store, and the signals in it.

    Args:
        paths: Log files, or folders of them.
        format: Format of the logs; None to recognise it from the content.
        ratings: The scale of all ratings, such as 1..5; "" to find it from the numbers of each file.
    """
    found = preview(paths, options_of(format, ratings))
    by_file: dict[str, list[PreviewConversation]] = {}
    for path, conversation in found.conversations:
        by_file.setdefault(path, []).append(_conversation(conversation))
    return Previewed(
        files=[
            PreviewFile(
                path=file.path,
                format=file.format,
                encoding=file.encoding,
                compression=file.compression,
                conversations=by_file.get(file.path, []),
            )
            for file in found.report.files
        ],
        set_aside=_set_aside(found.report),
        skipped=_skipped(found.report),
        waiting=list(found.report.waiting),
    )


def _conversation(conversation: Conversation) -> PreviewConversation:
    """Return a conversation with its turns and the signals in it."""
    findings = [f for f in find(conversation.turns) if f.position >= conversation.copied]
    return PreviewConversation(
        source=conversation.source,
        turns=[
            PreviewTurn(
                role=turn.role,
                text=turn.text,
                at=turn.time.isoformat(timespec="milliseconds") if turn.time else None,
                rating=turn.rating,
                edited=turn.edited,
                line=turn.line,
            )
            for turn in conversation.turns
        ],
        signals=[
            PreviewSignal(
                kind=finding.kind,
                position=finding.position,
                about=finding.answer_position,
                strength=finding.strength,
                of=finding.of,
                found_by=finding.found_by,
                because=list(finding.matched),
            )
            for finding in findings
        ],
    )


def _set_aside(report: IngestReport) -> list[SetAsideLine]:
    lines = report.quarantined
    return [SetAsideLine(path=line.path, line=line.line, reason=line.reason) for line in lines]


def _skipped(report: IngestReport) -> list[SkippedLog]:
    return [SkippedLog(path=file.path, reason=file.reason) for file in report.skipped]
