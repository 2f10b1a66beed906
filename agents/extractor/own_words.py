"""The user's own words in a turn: the turn without what was quoted, pasted or handed over.

People paste logs, tracebacks, letters and texts to translate, fenced or not, and quote others. A complaint in
such a text is not a complaint about the answer.

Invariant: pure, and linear in the length of a turn; at most TAKEN_CHARS of it are read.
"""

import re
from collections.abc import Iterable
from functools import cache

from agents.extractor.tables import Language, anywhere, form

TAKEN_CHARS = 8000
"""Number of characters of a turn that are read at all, so that a huge paste takes no time."""
LONG_LINE = 12
"""Number of characters from which a line that also stands in the answer is a quotation of it."""

_CODE = re.compile(r"```(?s:.*?)(?:```|\Z)|~~~(?s:.*?)(?:~~~|\Z)|^>[^\n]*$|^(?: {4}|\t)[^\n]*$", re.MULTILINE)
_QUOTED = re.compile(
    r"\"[^\"\n]{1,600}\"|\u201c[^\u201d\n]{1,600}\u201d|"
    r"[\u201e\u201a][^\u201c\u201d\u2018\n]{1,600}[\u201c\u201d\u2018]|"
    r"\u00ab[^\u00bb\n]{1,600}\u00bb|\u00bb[^\u00ab\n]{1,600}\u00ab|\u300c[^\u300d]{1,600}\u300d|"
    r"\u300e[^\u300f]{1,600}\u300f|\u300a[^\u300b]{1,600}\u300b|`[^`\n]{1,600}`|"
    r"(?<![\w'])['\u2018](?=\S)[^'\u2019\n]*(?:['\u2019]\w[^'\u2019\n]*){0,4}['\u2019](?!\w)"
)  # fmt: skip
_LOG = re.compile(
    r"^\s*(?:(?:fatal|error|errors?|err!?|warn(?:ing)?|info|debug|trace|notice|critical|severe|panic|"
    r"exception|"
    r"fehler|erreur|errore|fout|erro|"
    r"\u043e\u0448\u0438\u0431\u043a\u0430|\u9519\u8bef|\u30a8\u30e9\u30fc)\s*[:\]>|(]|"
    r"[\w.]*(?:error|exception|warning|fault)\b(?:\[\w+\])?:|traceback \(|caused by:|\w[\w.]* err! |"
    r"at [\w$.<>]+\(|from \S+:\d+|file \"|\S+\.\w{1,5}:\d+(?::\d+)?[: ]|make(?:\[\d+\])?: |"
    r"\$ \S|>>> |\+\+\+ |--- |@@ |"
    r"\[?\d{4}-\d\d-\d\d[t ]\d\d:|\[?\d\d:\d\d:\d\d|={3,}|-{5,}|"
    r"\[(?:error|warn|info|debug|fatal)|"
    r"\S+ (?:\.{3}|\u2026) ?(?:failed|ok|error|passed)|(?:failed|passed|e {2,})\s|"
    r"(?:def|class|function|public|private|static) .*[({:;,]$|(?:const|let|var|int|auto) \w+ ?=|"
    r"import [\w.]+;?$|"
    r"from [\w.]+ import |#include|package [\w.]+;$|select .* from |"
    r"(?:if|for|while|return|raise|throw|assert)\b.*[:;{)]$)",
    re.IGNORECASE,
)
_HANDED_OVER = re.compile(r"[:\uff1a](?=\s|[^\s/\d])")


@cache
def _greeting() -> re.Pattern[str]:
    """Return the pattern of the beginning of a letter, in any language."""
    words, whole = anywhere("greeting"), anywhere("salutation")
    return re.compile(rf"^\W*(?:(?:{words})(?: [^\s,!:\n]+){{0,4}} ?[,!:]|{whole})", re.IGNORECASE)


@cache
def _farewell() -> re.Pattern[str]:
    """Return the pattern of the end of a letter, in any language: the farewell, and a name or nothing."""
    return re.compile(
        rf"(?<!\w)(?:{anywhere('farewell')})(?:[,.!\u3002]?\s+[^\n]{{1,40}}|[.\u3002]?)\s*$", re.IGNORECASE
    )


def own_words(text: str, *, request: str = "", answer: str = "", languages: Iterable[Language] = ()) -> str:
    """Return the user's own words of a turn, without what is quoted, pasted or handed over.

    Args:
        text: The turn.
        request: The request before it; after a request to work on a text, another text may follow.
        answer: The answer before it; a line of it that comes back is a quotation.
        languages: The tables of the languages that the turn may be in, for words such as "she wrote:".
    """
    rest = _CODE.sub("\n", text[:TAKEN_CHARS])
    rest = "\n".join(_without_logs(rest.split("\n"), answer))
    rest = _without_letter(rest)
    rest = _QUOTED.sub(" \u2026 ", rest)
    return _without_handed_over(rest, request, tuple(languages))


def _without_logs(lines: list[str], answer: str) -> Iterable[str]:
    """Yield the lines that are no part of a log, of code or of the answer.

    A log goes from its first recognised line to the next empty line.
    """
    inside = False
    for line in lines:
        if not line.strip():
            inside = False
        elif not inside and _LOG.match(line[:200]):
            inside = True
        if not inside and not (len(line) >= LONG_LINE and line.strip() in answer):
            yield line


def _without_letter(text: str) -> str:
    """Return a text without the letter in it: from a greeting to a farewell or, on lines of their own, on."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        greeting = _greeting().match(line)
        if greeting is None:
            continue
        alone = not line[greeting.end() :].strip() and any(rest.strip() for rest in lines[at + 1 :])
        if alone or _farewell().search("\n".join(lines[at:]).rstrip()[-120:]):
            return "\n".join(lines[:at])
    return text


def _without_handed_over(text: str, request: str, languages: tuple[Language, ...]) -> str:
    """Return a text without what a colon hands over: "translate: ...", "she wrote: ..."."""
    for colon in _HANDED_OVER.finditer(text[:400]):
        before = form(text[: colon.start()])
        asked = form(request[:400])
        for language in languages:
            works = language.score("work", before) or (
                len(before.split()) <= 3 and language.score("work", asked)
            )
            if works or language.score("speech", before):
                return text[: colon.start()]
    return text
