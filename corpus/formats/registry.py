"""The readers of all log formats; the first that recognises a record reads it: the general ones are last."""

from corpus.formats.agents import claude_code
from corpus.formats.datasets import sharegpt, trl
from corpus.formats.format import Format
from corpus.formats.interfaces import openai

FORMATS: tuple[Format, ...] = (
    claude_code.FORMAT,
    trl.FORMAT,
    sharegpt.FORMAT,
    openai.FORMAT,
)
