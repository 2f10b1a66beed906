"""Removal of secrets from text before it is stored: keys, tokens, passwords, private keys.

Invariant: pure, idempotent, linear in the length of the text. A secret becomes `[secret:kind]`; text without
secrets is unchanged. This module removes obvious secrets only: a password in plain prose is not found if no
word such as "password" announces it.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from operator import is_
from typing import Any

from corpus.aliases import Json
from corpus.conversation import Conversation, Structure, Turn
from corpus.scrub.announced import scrub_announced
from corpus.scrub.assignments import scrub_assignments
from corpus.scrub.tokens import scrub_tokens

RULES = 3
"""Version of these rules, and of those in the modules beside this one: it grows with them, and stored texts
of older rules are scrubbed again."""

_URL_PASSWORD = re.compile(r"(://[^\s/:@\"'<>]*:)(?!\[secret:|\$?\{|<)[^\s/\"'<>]+@")
_BEARER = re.compile(
    r"(?i)(?P<header>authorization\\?[\"']?[ \t]{0,4}[:=][ \t]{0,4}\\?[\"']?)?"
    r"(?P<scheme>\b(?:bearer|basic|token|digest)[ \t]{1,4})(?P<value>[A-Za-z0-9._~+/=-]{6,}+)"
)
_CURL_USER = re.compile(r"(\bcurl\b[^\n|;]{0,400}?\s(?:-u|--user)[ =]['\"]?[^\s:'\"]{1,100}:)([^\s'\"\[]+)")
_LETTERS = re.compile(r"[A-Za-z_.:!?/-]{0,23}")

_REPLACED = re.compile(r"\[secret:([a-z-]+)\]")
_PRIVATE_KEY = "[secret:private-key]"
_MARKER = re.compile(r"-----(BEGIN|END) (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_BETWEEN = r"(?:\s|\\[nrt]|[>|\"'+,;#*]|\d{1,6}(?:→|\t|:|\|))"
_KEY_BODY = re.compile(
    rf"(?:{_BETWEEN}*+(?:[A-Z][A-Za-z-]{{2,20}}: [^\n]*+|[A-Za-z0-9+/=]{{16,}}+))*+"
    rf"(?:{_BETWEEN}*+[A-Za-z0-9+/=]{{1,15}}+(?=[ \t.…]*(?:\n|\\n|\Z)))?"
)
_KEY_LINE = re.compile(r"[^A-Za-z0-9+/=]*(?:\d{1,6}[^A-Za-z0-9+/=]+)?[A-Za-z0-9+/=]{16,}[^A-Za-z0-9+/=]*")


def scrub(text: str) -> str:
    """Return the text with `[secret:kind]` for every obvious secret."""
    if "PRIVATE KEY" in text:
        text = _without_private_keys(text)
    if "://" in text:
        text = _URL_PASSWORD.sub(r"\1[secret:url-password]@", text)
    text = scrub_tokens(text)
    folded = text.lower()
    if "bearer" in folded or "authorization" in folded:
        text = _BEARER.sub(_bearer, text)
    if "curl" in folded:
        text = _CURL_USER.sub(r"\1[secret:password]", text)
    return scrub_announced(scrub_assignments(text))


def kinds_of(text: str) -> dict[str, int]:
    """Return how many secrets of each kind `scrub` would remove from a text, sorted by kind."""
    count = Counter(_REPLACED.findall(scrub(text)))
    count.subtract(_REPLACED.findall(text))  # removed before
    return {kind: number for kind, number in sorted(count.items()) if number > 0}


Clean = Callable[[str], str]
"""Returns a text without what must not be stored: secrets, or what names a person, too."""


def scrub_name(name: str, clean: Clean = scrub) -> str:
    """Return the name of a file, a user or a turn without secrets; different names stay different.

    Where `clean` removes more, its masks keep names apart.
    """
    if not name:
        return name
    name = _storable(name)
    scrubbed = scrub(name)
    if scrubbed != name:
        scrubbed = f"{scrubbed}#{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return scrubbed if clean is scrub else clean(scrubbed)


def scrub_conversation(conversation: Conversation, clean: Clean = scrub) -> Conversation:
    """Return the conversation without secrets and without characters that a database refuses."""
    turns = tuple(scrub_turn(turn, clean) for turn in conversation.turns)
    before = (conversation.source, conversation.key, conversation.session)
    source, key, session = (scrub_name(name, clean) for name in before)
    if (source, key, session) == before and all(map(is_, turns, conversation.turns)):
        return conversation
    return replace(conversation, turns=turns, source=source, key=key, session=session)


def scrub_turn(turn: Turn, clean: Clean = scrub) -> Turn:
    """Return a turn without secrets and without characters that a database refuses."""
    if turn.edited is None and turn.structure is None and turn.tools is None:  # most turns
        text, key = clean(_storable(turn.text)), scrub_name(turn.key, clean)
        return turn if text == turn.text and key == turn.key else replace(turn, text=text, key=key)
    return replace(
        turn,
        text=clean(_storable(turn.text)),
        edited=None if turn.edited is None else clean(_storable(turn.edited)),
        key=scrub_name(turn.key, clean),
        structure=None if turn.structure is None else _scrub_structure(turn.structure, clean),
        tools=None if turn.tools is None else tuple(scrub_tool(tool, clean) for tool in turn.tools),
    )


def _scrub_structure(structure: Structure, clean: Clean) -> Structure:
    """Return the structure of a turn without secrets; a call and its result keep the same id."""
    calls = tuple(
        replace(
            call,
            name=scrub_name(call.name, clean),
            arguments=_scrub_json(call.arguments, clean),
            id=scrub_name(call.id, clean),
        )
        for call in structure.calls
    )
    names = {name: scrub_name(getattr(structure, name), clean) for name in ("call_id", "name", "answer")}
    return replace(structure, content=clean(_storable(structure.content)), calls=calls, **names)


def scrub_tool(tool: Json, clean: Clean = scrub) -> Json:
    """Return the definition of a tool without secrets."""
    scrubbed: Json = json.loads(_scrub_json(json.dumps(tool, ensure_ascii=False), clean))
    return scrubbed


def _scrub_json(text: str, clean: Clean) -> str:
    """Return JSON text without secrets; it stays JSON. Any other text is searched as text.

    The whole text is searched, because a key announces the secret in its value. If a replacement breaks the
    JSON, each text in it is searched alone.
    """
    scrubbed = clean(_storable(text))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return scrubbed
    try:
        json.loads(scrubbed)
    except ValueError:
        return json.dumps(each_text(value, lambda each: clean(_storable(each))), ensure_ascii=False)
    return scrubbed


def each_text(value: Any, change: Clean) -> Any:
    """Return a JSON value with every text in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): each_text(part, change) for key, part in value.items()}
    return [each_text(part, change) for part in value] if isinstance(value, list) else value


def _storable(text: str) -> str:
    """Return the text with replacements for what a database refuses: NUL and half a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "backslashreplace").decode("utf-8")


def _bearer(match: re.Match[str]) -> str:
    """Return the replacement for a bearer token; ordinary words without a header stay as they are.

    "bearer authentication" is an example of such words.
    """
    named = match["header"] or match["scheme"].strip().lower() == "bearer"
    ordinary = not match["header"] and _LETTERS.fullmatch(match["value"])
    if ordinary or not named:
        return match.group()
    return f"{match['header'] or ''}{match['scheme']}[secret:bearer]"


def _without_private_keys(text: str) -> str:
    """Return the text with `[secret:private-key]` for each private key block, whole or cut off at an end."""
    parts: list[str] = []
    done, opened = 0, False
    for marker in _MARKER.finditer(text):
        before = text[done : marker.start()]
        if marker[1] == "BEGIN":
            parts.append(_KEY_BODY.sub("", before, count=1) if opened else before)
            parts.append(_PRIVATE_KEY)
        elif not opened:
            parts.append(_without_last_key_lines(before))
        done, opened = marker.end(), marker[1] == "BEGIN"
    parts.append(_KEY_BODY.sub("", text[done:], count=1) if opened else text[done:])
    return "".join(parts)


def _without_last_key_lines(text: str) -> str:
    """Return a text with `[secret:private-key]` for the lines of a key at its end.

    The BEGIN marker of this key is missing, so each line is judged by its form.
    """
    lines = text.split("\n")
    while lines and (not lines[-1].strip() or _KEY_LINE.fullmatch(lines[-1])):
        lines.pop()
    return "\n".join([*lines, _PRIVATE_KEY])
