"""Removal of secrets that the words around them announce: in a sentence, a `.netrc`, a cookie, a variable.

Invariant: pure, linear, idempotent. A value is a secret only if it looks like one: letters and digits, or
letters and signs. `assignments.py` has what directly follows a secret's name.
"""

import re

from corpus.scrub.tokens import START

_END = r"\s\\\"'`,;|<>\x1b"
"""Characters that end a value."""
_PROSE = re.compile(
    r"(?i)(\b(?:pass(?:word|phrase|code)?|passwort|pwd|login|pin|secret|token|(?:api|access|secret) key)s?\b"
    r"[^\n\x1b=:;.?!\\]{1,48}?(?:\b(?:is|was|ist|are|to)\b:?|:)[ \t]{1,4}[\"'`*]{0,2})"
    rf"(?P<value>[^{_END}*\[\]]{{6,}}+)"
)
_GAP = r"(?:\s|\\[nrt]){1,8}"
_NETRC = re.compile(
    rf"({START}(?:login|machine|user){_GAP}[^{_END}]{{1,100}}+{_GAP}password{_GAP})([^{_END}\[\]]{{3,}}+)"
)
_COOKIE = re.compile(
    rf"(?i)({START}(?:set-)?cookie\\?[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}\\?[\"']?)"
    r"([^\n\\\"'`|\x1b]{1,8000}+)"
)
_PAIR = re.compile(r"([\w.$-]{1,100}=)([^;,\s=]{12,}+=*)")
_ATTRIBUTES = ("path=", "domain=", "expires=", "max-age=", "samesite=", "version=")
_VARIABLE = re.compile(rf"{START}([A-Z][A-Z0-9_]{{2,60}}+=[ \t]?[\"']?)([A-Za-z0-9+/=_.~-]{{16,}}+)")
_SECRET_NAME = re.compile(
    r"KEY|TOKEN|SECRET|PASS|PWD|AUTH|SIGN|CREDENTIAL|PRIVATE|SALT|COOKIE|DSN|WEBHOOK|SESSION"
)
_OWN = re.compile(r"\[secret:|^(?:\$|%|<|\{)")


def scrub_announced(text: str) -> str:
    """Return the text with `[secret:kind]` for every value that its surroundings call a secret."""
    folded = text.lower()
    if "pass" in folded or "secret" in folded or "token" in folded or " key" in folded or "pin " in folded:
        text = _PROSE.sub(_stated, text)
    if "password" in text:
        text = _NETRC.sub(r"\1[secret:password]", text)
    if "cookie" in folded:
        text = _COOKIE.sub(lambda match: match[1] + _PAIR.sub(_pair, match[2]), text)
    if "=" in text:
        text = _VARIABLE.sub(_variable, text)
    return text


def _stated(match: re.Match[str]) -> str:
    """Return the replacement for what a sentence calls a password."""
    value = match["value"]
    plain = value.rstrip(".!?:)*")
    if not _is_mixed(plain) or re.fullmatch(r"\d+[a-z%]+|\d+-\w+|[A-Za-z_]\w*\(.*|.*://.*|/.*", plain):
        return match.group()
    return f"{match[1]}[secret:password]{value[len(plain) :]}"


def _pair(match: re.Match[str]) -> str:
    """Return the replacement for one cookie; attributes and plain settings stay."""
    if match[1].lower() in _ATTRIBUTES or not _is_random(match[2]):
        return match.group()
    return f"{match[1]}[secret:cookie]"


def _variable(match: re.Match[str]) -> str:
    """Return the replacement for a variable of the environment whose name is a secret's."""
    if not _SECRET_NAME.search(match[1]) or not _is_random(match[2]):
        return match.group()
    return f"{match[1]}[secret:key]"


def _is_mixed(value: str) -> bool:
    """Return whether a word is none of a language: letters with digits, or with a sign inside."""
    letters, digits = (any(test(mark) for mark in value) for test in (str.isalpha, str.isdigit))
    return letters and (digits or bool(re.search(r"\w[!#$%&@^~+]+\w", value))) and not _OWN.search(value)


def _is_random(value: str) -> bool:
    """Return whether a value is long, has letters and digits, and is no path or name of words."""
    if len(value) < 16 or _OWN.search(value) or value.startswith(("/", ".", "http")):
        return False
    words = re.fullmatch(r"[A-Za-z]+(?:[-_.][A-Za-z]+)*\d{0,2}", value)
    return not words and any(map(str.isdigit, value)) and any(map(str.isalpha, value))
