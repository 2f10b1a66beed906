"""Removal of secrets that only their name identifies: `password=...`, `"api_key": "..."`, `--token ...`.

Invariant: pure, linear, idempotent. Heuristics decide what is a secret and what is code or prose: after such
a name a quoted literal is a secret; a bare word is one only if it is unlikely to be an identifier, a type, a
path or an ordinary word. This module does not recognise tokens by their form; `patterns.py` does.
"""

import re

_NAMES = (
    r"(?:(?P<password>pass(?:word|wd|phrase|code)|passwort|pwd|(?<![A-Za-z])pass(?==))"
    r"|(?P<key>(?<!\[)secret|(?:api|access|secret|private|signing|account)[_-]?key|credentials?)|token)"
)
_VALUE = (
    r"(?:(?P<quote>[\"'`])(?P<quoted>(?:\\[^\n]|(?!(?P=quote))[^\\\n])*+)(?:(?P=quote)|$)"
    r"|\\(?P<mark>[\"'])(?P<escaped>(?:(?!\\(?P=mark))[^\n])*+)(?:\\(?P=mark)|$)"
    r"|(?P<bare>[^\s\"'`,;&()\[\]{}<>\\|\x1b]{4,}+)(?![(\[{])(?P<after>[),]?))"
)
_SIGN = r"\\?[\"'`]?\]?[ \t]{0,4}(?::[ \t]?[A-Za-z_][\w.\[\]| ]{0,40}?=|:=|=>|={1,3}|:)[ \t]{0,4}|>"
_STATES = r"[ \t](?:(?:is|was)[ \t]?:?[ \t]?)?"
_BEGINNINGS = (
    "pass", "pwd", "secret", "api", "access", "private", "signing", "account", "credential", "token",
)  # fmt: skip
_STARTS = re.compile("|".join(_BEGINNINGS))
_ASSIGNED = re.compile(rf"(?im){_NAMES}(?P<sign>{_SIGN}){_VALUE}")
_STATED = re.compile(rf"(?im){_NAMES}(?P<sign>{_STATES}){_VALUE}")
_FLAG = re.compile(r"(?:^|\s)--?(?:\w+-)*$")
_FLAG_LENGTH = 40
"""Number of characters before a name that are searched for the dashes of a flag."""
_LONG = 256
"""The inside of a longer value that is not a secret is not searched, so that the search stays linear."""

_PLACEHOLDER = re.compile(
    r"(?i)\$.*|%.*%|<.*|\{.*|[*x.•_-]+|\[.*\]"
    r"|(?:your|my|the|some|enter|insert|example|change|dummy|placeholder|redacted|must|should)"
    r"(?:[ _-]?me)?(?:[ _-].*)?"
    r"|(?:none|null|nil|true|false|undefined|str|string|text|int|bool|bytes|any|object|optional|secretstr"
    r"|required|hidden|invalid|incorrect|wrong|missing|empty|expired|changed|reset|protected|unknown"
    r"|value|input|password|secret|token|basic|bearer|digest|authentication|authorization"
    r"|include|omit|same-origin|return|raise|continue|break|yield|print|self|this|that|and|for|with|from|what|when|will|have|been)[.,;:!?]*"
)
_REFERENCE = re.compile(
    r"[A-Za-z_$]\w*(?:(?:\.|::|->)[A-Za-z_]\w*)+[.:]?|[~.]{0,2}/.*|[A-Za-z]+://.*|[A-Z]:.*"
)
_WORD = re.compile(r"[A-Za-z_]+[.:!?]*")
_ORDINARY = re.compile(r"[A-Za-z_'/-]+")
_NAME_OF_ONE = re.compile(r"[A-Z_]+|[a-z_]*_(?:key|token|secret|password|pwd)")
_DIGITS = re.compile(r"[\d.:/%+-]+")
_PASSPHRASE = re.compile(r"[a-z0-9]+(?: [a-z0-9]+){2,7}")


def scrub_assignments(text: str) -> str:
    """Return the text with `[secret:kind]` for every value that is assigned to a secret's name."""
    folded = text.lower()
    if len(folded) != len(text):  # lower() makes one letter of Unicode longer, and offsets would not agree
        folded = "".join(letter.lower() if letter.isascii() else letter for letter in text)
    if not any(name in folded for name in _BEGINNINGS):
        return text
    parts: list[str] = []
    done = skip_to = 0
    for start in _STARTS.finditer(folded):
        if start.start() < skip_to:
            continue
        (begin, end), kind = _value_at(text, start.start())
        if kind:
            parts += [text[done:begin], f"[secret:{kind}]"]
            done = end
        if kind or end - begin > _LONG:
            skip_to = end
    return "".join([*parts, text[done:]])


def _value_at(text: str, place: int) -> tuple[tuple[int, int], str]:
    """Return (start, end) and kind of the value that follows the name at the offset `place`.

    The kind is password, key or token; "" for a value that is not a secret.
    """
    longest = (place, place)
    for pattern, is_secret in ((_ASSIGNED, _is_assigned_secret), (_STATED, _is_stated_secret)):
        match = pattern.match(text, place)
        if match is None:
            continue
        group = next(name for name in ("quoted", "escaped", "bare") if match[name] is not None)
        kind = "password" if match["password"] else "key" if match["key"] else "token"
        longest = match.span(group)
        if not _PLACEHOLDER.fullmatch(match[group]) and is_secret(match, match[group], kind):
            return longest, kind
    return longest, ""


def _is_assigned_secret(match: re.Match[str], value: str, kind: str) -> bool:
    """Return whether a value after a sign of assignment is a secret."""
    if match["bare"] is None:
        return _is_quoted_secret(value, kind)
    if (_REFERENCE.fullmatch(value) and not _is_base64(value)) or value.lower() == match.group(0)[
        : len(value)
    ].lower():
        return False
    if _WORD.fullmatch(value):
        return _is_word_secret(match, value, kind)
    return _is_mixed_secret(value, kind)


def _is_base64(value: str) -> bool:
    """Return whether a value that may be a path is a long number in base64, which may begin with a slash."""
    if not re.fullmatch(r"[A-Za-z0-9+/]{40,}={0,2}", value):
        return False
    return "+" in value or "=" in value or sum(map(str.isdigit, value)) >= 3


def _is_quoted_secret(value: str, kind: str) -> bool:
    """Return whether a quoted value is a secret.

    Args:
        value: The text between the quotation marks.
        kind: Kind of the name before it; a password may be any text, a token has to look random.
    """
    if " " in value:
        return kind == "password" and bool(_PASSPHRASE.fullmatch(value) or re.search(r"\d", value))
    if kind == "password":
        return len(value) >= 3
    if _NAME_OF_ONE.fullmatch(value):
        return False
    return len(value) >= 6 if kind == "key" else _looks_random(value)


def _is_word_secret(match: re.Match[str], value: str, kind: str) -> bool:
    """Return whether a bare word is a secret.

    A value in an environment file or a URL is one; an identifier in code or a word in prose is not.
    """
    tight = match["sign"] in ("=", ">") and not match["after"]
    if kind == "password":
        line_ends = match.end() == len(match.string) or match.string[match.end()] in "\r\n"
        return tight or (match["sign"] == ": " and value.islower() and line_ends)
    return tight and (len(value) >= 20 or (kind == "key" and match.group()[:6].isupper() and len(value) >= 6))


def _is_mixed_secret(value: str, kind: str) -> bool:
    """Return whether a bare value with digits or signs in it is a secret."""
    if kind == "password":
        return True
    if kind == "key":
        return len(value) >= 6 and not (_DIGITS.fullmatch(value) and len(value) < 16)
    return _looks_random(value)


def _is_stated_secret(match: re.Match[str], value: str, kind: str) -> bool:
    """Return whether a value in a sentence ("the password is ...") or after a flag is a secret."""
    flagged = _FLAG.search(match.string[max(0, match.start() - _FLAG_LENGTH) : match.start()]) is not None
    if match["sign"].isspace() and not flagged:
        return False
    if match["bare"] is None:
        return _is_quoted_secret(value, kind)
    plain = value.rstrip(".,:!?")
    if _ORDINARY.fullmatch(plain) or _REFERENCE.fullmatch(plain):
        return flagged and kind == "password" and plain.islower() and len(plain) >= 6
    return _is_mixed_secret(plain, kind)


def _looks_random(value: str) -> bool:
    """Return whether a value is neither a word nor a number: letters with digits, or very long."""
    if _DIGITS.fullmatch(value):
        return len(value) >= 20
    return len(value) >= 20 or (len(value) >= 8 and any(mark.isdigit() for mark in value))
