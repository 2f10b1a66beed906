"""Logs that are no JSON: their text as records that a reader takes.

Invariant: only a text that begins with a known mark is taken apart; its lines are not changed. Pure.
"""

from collections.abc import Iterable, Iterator

from corpus.lines import BadLine, Item, RawLine

AIDER = b"# aider chat started at"
"""How each session in Aider's chat history begins."""


def is_text(head: bytes) -> bool:
    """Return whether a file with these first bytes is a known log that is no JSON."""
    return head.lstrip().startswith(AIDER)


def text_records(lines: Iterable[RawLine], encoding: str) -> Iterator[Item | BadLine]:
    """Yield the sessions in the lines of a text, each as a record with the number of its first line."""
    session: list[str] = []
    began = 1
    for raw in lines:
        text = (raw.data or b"").decode(encoding, "replace").rstrip("\r")
        if text.startswith(AIDER.decode()) and session:
            yield Item(number=began, value={"aider": session})
            session, began = [], raw.number
        session.append(text)
    if any(text.strip() for text in session):
        yield Item(number=began, value={"aider": session})
