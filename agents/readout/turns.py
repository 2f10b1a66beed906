"""What is read of a conversation: for each turn, all that had been said when it ended.

Turns are read as the vectors' own texts are: one line of plain text, without the chat template, whose markers would
make all last tokens alike. Invariant: pure; the reading of a turn never depends on what came later. Knows no tokens.
"""

from collections.abc import Sequence


def prefixes(texts: Sequence[str]) -> list[str]:
    """For each turn its words and those of all before it, a space between them."""
    said: list[str] = []
    found = []
    for text in texts:
        said.append(" ".join(text.split()))
        found.append(" ".join(word for word in said if word))
    return found
