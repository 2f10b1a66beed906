"""What is read of a conversation: for each turn, what had been said when it ended.

Turns are read as the vectors' own texts are: one line of plain text, without the chat template, whose markers would
make all last tokens alike. The texts of the embedded model's world are one exchange each, and a model so small loses
an answer in a longer text; so a turn is read there with the one before it, and elsewhere with all before it.
Invariant: pure; the reading of a turn never depends on what came later. Knows no tokens.
"""

from collections.abc import Sequence

WINDOW: dict[str, int | None] = {"world": 2, "states": None}
"""By concept set: turns that are read together, the last of them the one that the reading is of; None for all."""


def said_until(texts: Sequence[str], window: int | None = None) -> list[str]:
    """For each turn its words behind those of the turns before it, a space between them."""
    said = [" ".join(text.split()) for text in texts]
    found = []
    for end in range(1, len(said) + 1):
        start = 0 if window is None else max(0, end - window)
        found.append(" ".join(words for words in said[start:end] if words))
    return found
