"""Checks of an answer's form: Markdown, lists, headings, code and JSON.

Markdown is read by markdown-it-py, so that a star in a sum is no emphasis.
"""

import json as json_module
import re
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

_BLOCKS = {
    "heading_open": "a heading",
    "bullet_list_open": "a list with bullets",
    "blockquote_open": "a block quotation",
    "fence": "a block of code",
    "table_open": "a table",
    "hr": "a line across",
}
_MARKS = {
    "strong_open": "bold type",
    "em_open": "italic type",
    "code_inline": "type for code",
    "link_open": "a link",
    "image": "a picture",
    "s_open": "words struck out",
}
_CODE_LINE = re.compile(
    r"^\s*(?:#|//|/\*|\*/|--|@|</?\w|[)\]}]|(?:def|class|import|from|return|if|else|elif|for|while|try|except|with|"
    r"print|let|const|var|function|public|private|static|void|int|fn|use|package|func|select|insert|update|delete|"
    r"create|echo|export|cd|ls|git|pip|sudo)\b(?=[\s(:{;]|$))|[{};]\s*$|\w\s*(?:[-+*/|]?=|=>|:=)\s*\S|\w\(.*\)\s*:?$",
    re.IGNORECASE,
)


@lru_cache(maxsize=256)
def _tokens(answer: str) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(answer))


def _items(answer: str, kind: str) -> int:
    """Return the number of points in the outermost lists of this kind."""
    count, depth = 0, 0
    for token in _tokens(answer):
        if token.type == f"{kind}_list_open":
            depth += 1
        elif token.type == f"{kind}_list_close":
            depth -= 1
        elif token.type == "list_item_open" and depth == 1:
            count += 1
    return count


def no_markdown(answer: str) -> str:
    """Write plain text: "no markdown", "stop with the stars and hashes"."""
    for token in _tokens(answer):
        if token.type in _BLOCKS:
            return f"has {_BLOCKS[token.type]}"
        for child in token.children or ():
            if child.type in _MARKS:
                return f"has {_MARKS[child.type]}"
    if _items(answer, "ordered") > 1:  # one alone may be a year or a date at the start of a line
        return "has a numbered list"
    return ""


def only_code(answer: str) -> str:
    """Give me the code and not a word around it: "just the code"."""
    blocks = [token for token in _tokens(answer) if token.type == "fence"]
    if blocks:
        around = [token for token in _tokens(answer) if token.level == 0 and token.type != "fence"]
        return "has words around the code" if around else ""
    lines = [line for line in answer.splitlines() if line.strip()]
    prose = [line for line in lines if not _CODE_LINE.search(line)]
    return "" if lines and not prose else "is not code alone"


def json(answer: str) -> str:
    """Give me JSON that a program can read, and nothing else; it may be in a block of code."""
    blocks = [token.content for token in _tokens(answer) if token.type == "fence"]
    if len(blocks) > 1 or (blocks and only_code(answer)):
        return "has words around the JSON"
    try:
        value = json_module.loads(blocks[0] if blocks else answer)
    except (ValueError, RecursionError):
        return "is not JSON"
    return "" if isinstance(value, dict | list) else "is neither an object nor an array"


def bullets(answer: str, *, least: int = 2) -> str:
    """Give me a list with at least this many bullets."""
    count = _items(answer, "bullet")
    return f"has {count} points with bullets, fewer than {least}" if count < least else ""


def numbered(answer: str, *, least: int = 2) -> str:
    """Give me at least this many numbered steps."""
    count = _items(answer, "ordered")
    return f"has {count} numbered points, fewer than {least}" if count < least else ""


def headings(answer: str, *, least: int = 1) -> str:
    """Put headings over the parts: at least this many."""
    count = sum(token.type == "heading_open" for token in _tokens(answer))
    return f"has {count} headings, fewer than {least}" if count < least else ""
