"""The checks of the abilities: does an answer have the requested form, or hold the requested fact?

Each takes an answer and its parameters, and returns the fault in a few words, or "" if there is none.
Invariant: pure and total: any text gives a result. This module knows nothing about prompts.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_BULLET = re.compile(r"^\s*[-*•+]\s+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^\s*\d+[.)]\s+\S", re.MULTILINE)
_FENCE = re.compile(r"```[\w+-]*\n(.*?)```", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]]*(?=\s|$)")
_FUNCTION_WORDS = {
    "de": "der die das und ist nicht ein eine einen mit auf von zu den dem ich du es man kann wird hat",
    "en": "the and is are of to in that it you a an with on for be this was i can have as from or when your",
    "es": "el la los las y es un una de que en con por para no se su del al son más puedo tiene como lo",
    "fr": "le la les et est un une de que en dans avec pour pas ne qui je tu vous il des du sur au ce sont",
    "it": "il lo la gli e è un una di che in con per non si della del sono al le i come mi ha uno nel",
}
"""Frequent short words of each language that `language` knows."""


def number(answer: str, *, value: float) -> str:
    """Check that the first or the last number is this one: "120 minutes in 2 hours", "2 + 2 = 4"."""
    numbers = [float(digits.replace(",", "")) for digits in _NUMBER.findall(answer)]
    if not numbers:
        return "there is no number"
    return "" if value in (numbers[0], numbers[-1]) else f"neither the first nor the last number is {value:g}"


def mentions(answer: str, *, any_of: Sequence[str]) -> str:
    """Check that one of these words or phrases occurs, in any case."""
    return "" if any(_occurrences(answer, phrase) for phrase in any_of) else f"no {' or '.join(any_of)}"


def mentions_exactly(answer: str, *, text: str) -> str:
    """Check that this text occurs, character by character."""
    return "" if text in answer else f"{text!r} does not occur"


def equals(answer: str, *, any_of: Sequence[str]) -> str:
    """Check that the answer is just one of these words; case and punctuation do not count."""
    bare = " ".join(_words(answer)).lower()
    return "" if bare in [text.lower() for text in any_of] else f"is not just {' or '.join(any_of)}"


def first_word(answer: str, *, any_of: Sequence[str]) -> str:
    """Check that the answer begins with one of these words, in any case."""
    first = next(iter(_words(answer)), "").lower()
    return "" if first in any_of else f"begins with {first!r}"


def words(answer: str, *, least: int, most: int) -> str:
    """Check the number of words."""
    return _between("words", len(_words(answer)), least, most)


def sentences(answer: str, *, least: int, most: int) -> str:
    """Check the number of sentences; one without an end mark counts."""
    parts = [part for part in _SENTENCE_END.split(answer) if _words(part)]
    return _between("sentences", len(parts), least, most)


def paragraphs(answer: str, *, least: int, most: int) -> str:
    """Check the number of paragraphs, which blank lines separate."""
    parts = [part for part in re.split(r"\n\s*\n", answer) if part.strip()]
    return _between("paragraphs", len(parts), least, most)


def bullets(answer: str, *, least: int, most: int) -> str:
    """Check the number of lines that begin with a dash, an asterisk, a plus or a bullet."""
    return _between("bullet points", len(_BULLET.findall(answer)), least, most)


def numbered(answer: str, *, least: int, most: int) -> str:
    """Check the number of lines that begin with a number and a full stop or bracket."""
    return _between("numbered lines", len(_NUMBERED.findall(answer)), least, most)


def comma_separated(answer: str, *, least: int, most: int) -> str:
    """Check that the answer is one line with this number of items, separated by commas."""
    if "\n" in answer:
        return "more than one line"
    return _between("items", len([item for item in answer.split(",") if item.strip()]), least, most)


def upper_case(answer: str) -> str:
    """Check that every letter is a capital."""
    return "" if answer.isupper() else "not in capital letters"


def lower_case(answer: str) -> str:
    """Check that no letter is a capital."""
    return "" if answer.islower() else "not in lower case"


def starts_with(answer: str, *, text: str) -> str:
    """Check the beginning, character by character."""
    return "" if answer.startswith(text) else f"does not begin with {text!r}"


def ends_with(answer: str, *, text: str) -> str:
    """Check the end, character by character."""
    return "" if answer.endswith(text) else f"does not end with {text!r}"


def quoted(answer: str) -> str:
    """Check that the whole answer is in double quotation marks."""
    inside = answer[1:-1]
    whole = len(answer) > 2 and answer[0] in '"“' and answer[-1] in '"”'
    return "" if whole and '"' not in inside else "not in quotation marks"


def heading(answer: str) -> str:
    """Check that the answer begins with a Markdown heading."""
    return "" if re.match(r"#{1,6} +\S", answer) else "no heading at the top"


def code_block(answer: str, *, must_hold: str) -> str:
    """Check that a fenced block of code holds this text."""
    blocks = _FENCE.findall(answer)
    if not blocks:
        return "no block of code"
    return "" if any(must_hold in block for block in blocks) else f"no block of code with {must_hold!r}"


def table_row(answer: str, *, cells: Sequence[str]) -> str:
    """Check that a Markdown table has a row of exactly these cells."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in answer.splitlines()
        if line.strip().startswith("|")
    ]
    return "" if list(cells) in rows else f"no row of {', '.join(cells)}"


def json_object(answer: str, *, values: dict[str, Any]) -> str:
    """Check that the answer is a JSON object with these keys and values, in a block of code or bare."""
    return _json_is(answer, values)


def json_array(answer: str, *, values: Sequence[Any]) -> str:
    """Check that the answer is a JSON array of these values, in a block of code or bare."""
    return _json_is(answer, list(values))


def language(answer: str, *, code: str) -> str:
    """Check that function words of this language are more frequent than those of any other, two at least."""
    spoken = [word.lower() for word in _words(answer)]
    counts = {name: sum(word in known.split() for word in spoken) for name, known in _FUNCTION_WORDS.items()}
    others = max(count for name, count in counts.items() if name != code)
    return "" if counts[code] >= 2 and counts[code] > others else f"does not read as {code}"


def uses(answer: str, *, words: Sequence[str]) -> str:
    """Check that all of these words occur, in any case."""
    missing = [word for word in words if not _occurrences(answer, word)]
    return f"without {', '.join(missing)}" if missing else ""


def avoids(answer: str, *, words: Sequence[str], least: int) -> str:
    """Check that none of these words occurs, in an answer of at least a given number of words."""
    if fault := _between("words", len(_words(answer)), least, None):
        return fault
    present = [word for word in words if _occurrences(answer, word)]
    return f"with {', '.join(present)}" if present else ""


def uses_and_avoids(answer: str, *, words: Sequence[str], not_words: Sequence[str]) -> str:
    """Check that all of the first words occur and none of the others."""
    return uses(answer, words=words) or avoids(answer, words=not_words, least=1)


def counts(answer: str, *, word: str, times: int) -> str:
    """Check how often a word occurs, in any case."""
    return _between(word, _occurrences(answer, word), times, times)


def in_order(answer: str, *, words: Sequence[str]) -> str:
    """Check that these words occur, their last occurrences in this order."""
    places = [max((match.start() for match in _pattern(word).finditer(answer)), default=-1) for word in words]
    if -1 in places:
        return f"without {words[places.index(-1)]}"
    return "" if places == sorted(places) else "in another order"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text)  # noqa: RUF001  typographic apostrophe


def _pattern(phrase: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)


def _occurrences(text: str, phrase: str) -> int:
    return len(_pattern(phrase).findall(text))


def _between(what: str, count: int, least: int, most: int | None) -> str:
    if count < least:
        return f"{count} {what}, fewer than {least}"
    return f"{count} {what}, more than {most}" if most is not None and count > most else ""


def _json_is(answer: str, wanted: object) -> str:
    blocks = _FENCE.findall(answer)
    try:
        value = json.loads(blocks[0] if blocks else answer)
    except (ValueError, RecursionError):
        return "not JSON"
    same = value == wanted and json.dumps(value, sort_keys=True) == json.dumps(wanted, sort_keys=True)
    return "" if same else "other JSON than was asked for"


CHECKS: dict[str, Callable[..., str]] = {
    check.__name__: check
    for check in (
        number,
        mentions,
        mentions_exactly,
        equals,
        first_word,
        words,
        sentences,
        paragraphs,
        bullets,
        numbered,
        comma_separated,
        upper_case,
        lower_case,
        starts_with,
        ends_with,
        quoted,
        heading,
        code_block,
        table_row,
        json_object,
        json_array,
        language,
        uses,
        avoids,
        uses_and_avoids,
        counts,
        in_order,
    )
}
"""Every check by its name in the files."""
