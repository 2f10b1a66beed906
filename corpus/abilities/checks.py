"""The checks of the abilities: does an answer have the requested form, or hold the requested fact?

Each check takes an answer and the check's parameters. It returns "" if the answer passes, else the fault in a
few words. Invariant: pure and total: any text gives a result. This module knows nothing about prompts.
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
"""Frequent short words of each language that the check `language` can recognise."""


def number(answer: str, *, value: float) -> str:
    """Return "" if the first or the last number in the answer is `value`, else the fault.

    The result is the first number of "120 minutes in 2 hours" and the last number of "2 + 2 = 4".
    """
    numbers = [float(digits.replace(",", "")) for digits in _NUMBER.findall(answer)]
    if not numbers:
        return "there is no number"
    return "" if value in (numbers[0], numbers[-1]) else f"neither the first nor the last number is {value:g}"


def mentions(answer: str, *, any_of: Sequence[str]) -> str:
    """Return "" if one of these words or phrases occurs, in upper or lower case, else the fault."""
    return "" if any(_occurrences(answer, phrase) for phrase in any_of) else f"no {' or '.join(any_of)}"


def mentions_exactly(answer: str, *, text: str) -> str:
    """Return "" if exactly this text occurs in the answer, else the fault."""
    return "" if text in answer else f"{text!r} does not occur"


def equals(answer: str, *, any_of: Sequence[str]) -> str:
    """Return "" if the whole answer is one of these texts, else the fault.

    Case and punctuation do not count.
    """
    bare = " ".join(_words(answer)).lower()
    return "" if bare in [text.lower() for text in any_of] else f"is not just {' or '.join(any_of)}"


def first_word(answer: str, *, any_of: Sequence[str]) -> str:
    """Return "" if the answer begins with one of these words, in upper or lower case, else the fault."""
    first = next(iter(_words(answer)), "").lower()
    return "" if first in any_of else f"begins with {first!r}"


def words(answer: str, *, least: int, most: int) -> str:
    """Return "" if the answer has `least` to `most` words, else the fault."""
    return _between("words", len(_words(answer)), least, most)


def sentences(answer: str, *, least: int, most: int) -> str:
    """Return "" if the answer has `least` to `most` sentences, else the fault.

    A last sentence without a full stop counts too.
    """
    parts = [part for part in _SENTENCE_END.split(answer) if _words(part)]
    return _between("sentences", len(parts), least, most)


def paragraphs(answer: str, *, least: int, most: int) -> str:
    """Return "" if the answer has `least` to `most` paragraphs, else the fault; blank lines separate them."""
    parts = [part for part in re.split(r"\n\s*\n", answer) if part.strip()]
    return _between("paragraphs", len(parts), least, most)


def bullets(answer: str, *, least: int, most: int) -> str:
    """Return "" if `least` to `most` lines begin with a dash, asterisk, plus or bullet, else the fault."""
    return _between("bullet points", len(_BULLET.findall(answer)), least, most)


def numbered(answer: str, *, least: int, most: int) -> str:
    """Return "" if `least` to `most` lines begin like "1." or "1)", else the fault."""
    return _between("numbered lines", len(_NUMBERED.findall(answer)), least, most)


def comma_separated(answer: str, *, least: int, most: int) -> str:
    """Return "" if the answer is one line of `least` to `most` items between commas, else the fault."""
    if "\n" in answer:
        return "more than one line"
    return _between("items", len([item for item in answer.split(",") if item.strip()]), least, most)


def upper_case(answer: str) -> str:
    """Return "" if every letter is a capital, else the fault."""
    return "" if answer.isupper() else "not in capital letters"


def lower_case(answer: str) -> str:
    """Return "" if no letter is a capital, else the fault."""
    return "" if answer.islower() else "not in lower case"


def starts_with(answer: str, *, text: str) -> str:
    """Return "" if the answer begins with exactly this text, else the fault."""
    return "" if answer.startswith(text) else f"does not begin with {text!r}"


def ends_with(answer: str, *, text: str) -> str:
    """Return "" if the answer ends with exactly this text, else the fault."""
    return "" if answer.endswith(text) else f"does not end with {text!r}"


def quoted(answer: str) -> str:
    """Return "" if the whole answer is in double quotation marks, else the fault."""
    inside = answer[1:-1]
    whole = len(answer) > 2 and answer[0] in '"“' and answer[-1] in '"”'
    return "" if whole and '"' not in inside else "not in quotation marks"


def heading(answer: str) -> str:
    """Return "" if the answer begins with a Markdown heading, else the fault."""
    return "" if re.match(r"#{1,6} +\S", answer) else "no heading at the top"


def code_block(answer: str, *, must_hold: str) -> str:
    """Return "" if a fenced block of code contains `must_hold`, else the fault."""
    blocks = _FENCE.findall(answer)
    if not blocks:
        return "no block of code"
    return "" if any(must_hold in block for block in blocks) else f"no block of code with {must_hold!r}"


def table_row(answer: str, *, cells: Sequence[str]) -> str:
    """Return "" if a Markdown table in the answer has a row of exactly these cells, else the fault."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in answer.splitlines()
        if line.strip().startswith("|")
    ]
    return "" if list(cells) in rows else f"no row of {', '.join(cells)}"


def json_object(answer: str, *, values: dict[str, Any]) -> str:
    """Return "" if the answer is a JSON object of exactly these keys and values, else the fault.

    The object may be in a block of code.
    """
    return _json_is(answer, values)


def json_array(answer: str, *, values: Sequence[Any]) -> str:
    """Return "" if the answer is a JSON array of exactly these values, else the fault.

    The array may be in a block of code.
    """
    return _json_is(answer, list(values))


def language(answer: str, *, code: str) -> str:
    """Return "" if the answer reads as this language, else the fault.

    It does if it has at least two frequent short words of the language, and fewer of any other language.
    """
    spoken = [word.lower() for word in _words(answer)]
    counts = {name: sum(word in known.split() for word in spoken) for name, known in _FUNCTION_WORDS.items()}
    others = max(count for name, count in counts.items() if name != code)
    return "" if counts[code] >= 2 and counts[code] > others else f"does not read as {code}"


def uses(answer: str, *, words: Sequence[str]) -> str:
    """Return "" if all of these words occur, in upper or lower case, else the fault."""
    missing = [word for word in words if not _occurrences(answer, word)]
    return f"without {', '.join(missing)}" if missing else ""


def avoids(answer: str, *, words: Sequence[str], least: int) -> str:
    """Return "" if the answer has at least `least` words and none of `words`, else the fault."""
    if fault := _between("words", len(_words(answer)), least, None):
        return fault
    present = [word for word in words if _occurrences(answer, word)]
    return f"with {', '.join(present)}" if present else ""


def uses_and_avoids(answer: str, *, words: Sequence[str], not_words: Sequence[str]) -> str:
    """Return "" if all of `words` occur and none of `not_words`, else the fault."""
    return uses(answer, words=words) or avoids(answer, words=not_words, least=1)


def counts(answer: str, *, word: str, times: int) -> str:
    """Return "" if the word occurs exactly `times` times, in upper or lower case, else the fault."""
    return _between(word, _occurrences(answer, word), times, times)


def in_order(answer: str, *, words: Sequence[str]) -> str:
    """Return "" if these words occur and their last occurrences are in this order, else the fault."""
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
"""The checks, by the name that the prompt files use."""
