# ruff: noqa: E501  (tables of words, a check in a row)
"""What people say when an answer breaks a rule: from a complaint to a check with its parameters.

The words say which rules may be meant ("I use Celsius, not Fahrenheit" names two). The answer decides: a rule
is meant only if the answer breaks it. Invariant: pure. A parameter is a number, one of the catalogue's
choices, or a few quoted words; nothing else of a complaint goes into a rule.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from corpus.checks.catalogue import fault, refusal
from corpus.checks.language import language_of
from corpus.checks.length import words as words_of

LONGEST_PHRASE = 40
"""Most characters of a phrase that a complaint may forbid."""
_COUNTED = {
    "one": 1, "a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "hundred": 100,
    "ein": 1, "eine": 1, "einem": 1, "einen": 1, "einer": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6, "sieben": 7, "acht": 8,
    "neun": 9, "zehn": 10, "zwölf": 12, "zwanzig": 20, "dreißig": 30, "dreissig": 30, "vierzig": 40, "fünfzig": 50, "hundert": 100,
    "un": 1, "une": 1, "una": 1, "deux": 2, "dos": 2, "due": 2, "trois": 3, "tres": 3, "tre": 3, "vingt": 20, "veinte": 20, "venti": 20,
}  # fmt: skip
_N = rf"(\d{{1,4}}|{'|'.join(sorted(_COUNTED, key=len, reverse=True))})"
_FEW = r"(?:max(?:imum|imal|\.)?|at most|no more than|not more than|under|below|fewer than|less than|up to|within|in|just|only|höchstens|maximal|nicht mehr als|unter|weniger als|nur|en|maximum de|como máximo|al massimo|in)"
_WORDS = r"(?:words?|wörter\w*|worte\w*|mots?|palabras?|parole|palavras|woorden)"
_SENTENCES = r"(?:sentences?|lines?|sätze\w*|satz|zeilen?|phrases?|frases?|frasi|zinnen)"
_NOT = r"(?:no|not|without|stop|don'?t|do not|never|quit|enough|drop|skip|lose|kill|avoid|leave out|kein\w*|ohne|nicht|nie|hör auf|lass|weg mit|spar dir|pas d|sans|sin|niente|sem|geen|zonder)"
_QUOTE = r"[\"'\u201c\u201e\u00ab\u2018]([^\"'\u201c\u201d\u00bb\u2019\n]{2,40})[\"'\u201d\u201c\u00bb\u2019]"
_BARE = r"([a-zäöüßéèàç]{3,20})"
_NEAR = r"[^.!?\n]{0,30}?"

_NUMBERS: tuple[tuple[str, str, str], ...] = (
    (
        "max_words",
        "most",
        rf"\b{_FEW}\s+{_N}\s+{_WORDS}\b|\b{_N}\s+{_WORDS},?\s+(?:max|at most|or (?:less|fewer)|tops|is enough|are enough|reichen|höchstens)",
    ),
    ("max_sentences", "most", rf"\b{_N}\s+(?:short |kurze[nmr]? |simple |single )?{_SENTENCES}\b"),
    (
        "min_words",
        "least",
        rf"\b(?:at least|no fewer than|more than|mindestens|wenigstens|mehr als|au moins|al menos)\s+{_N}\s+{_WORDS}\b",
    ),
)
"""For each check with a number: its parameter, and the words that state the number."""

_PLAIN: tuple[tuple[str, Mapping[str, Any], str], ...] = (
    (
        "max_words",
        {},
        r"\b(?:(?:too|so|way|very|super) (?:long|wordy|verbose|much text|many words)|shorter|less text|fewer words|wall of text|an? (?:essay|novel|book|lecture)|keep it (?:short|brief)|be (?:brief|concise)|briefer|concise(?:ly)?|tl;?dr|get to the point|"
        r"zu (?:lang|ausführlich|viel text)|so viel text|so lang|kürzer|kurz(?:er)? (?:bitte|fassen|und knapp)|fass dich kurz|knapper|roman|romane|aufsatz|komm zum punkt|"
        r"trop long\w*|plus court\w*|demasiado largo|más corto|troppo lungo|più (?:corto|breve)|longo demais|mais curto|te lang|korter)\b|太长|短一点|長すぎ|短く",
    ),
    (
        "min_words",
        {},
        r"\b(?:too (?:short|brief)|more detail\w*|longer|elaborate|say more|zu (?:kurz|knapp)|ausführlicher|mehr details|länger|trop court\w*|plus de détails|demasiado corto|más detalle\w*)\b",
    ),
    (
        "no_markdown",
        {},
        rf"\b(?:plain text|plain words|nur text|reine[rn]? text|klartext|texte brut|texto plano)\b|\b{_NOT}\b{_NEAR}\b(?:markdown|formatting|asterisks?|stars|hash(?:es|tags)?|bold|bullet(?:s| points?)?|lists?|headings?|formatierung\w*|sternchen|fettschrift|fett|listen?|aufzählung\w*|überschriften?|stichpunkte\w*)\b|\b(?:why|warum|wieso|wozu)\b{_NEAR}\b(?:markdown|formatting|asterisks?|stars|bold|bullets?|lists?|headings?|sternchen|listen?|aufzählung|überschriften?)\b",
    ),
    (
        "only_code",
        {},
        r"\b(?:just|only) (?:give me )?(?:the )?code\b|\bcode only\b|\bnur (?:den |der )?code\b|\b(?:without|no|skip|drop) (?:any |the |your )?(?:explanations?|commentary|chatter)\b|\bohne (?:erklärung\w*|kommentar\w*|gelaber)\b|\bkeine erklärung\w*\b|\bque le code\b|\bsolo (?:el )?código\b",
    ),
    (
        "json",
        {},
        r"\b(?:just|only|valid|pure|raw|as|nur|reines|gültiges|als) (?:the )?json\b|\bjson (?:only|alone)\b",
    ),
    (
        "no_emoji",
        {},
        rf"\b{_NOT}\b{_NEAR}\b(?:emojis?|emoticons?|smileys?|smilies|émojis?)\b|\b(?:emojis?|smileys?)\b{_NEAR}\b(?:weg|weglassen|raus|lassen|away|off|out|annoying|nerven|nervt|unprofessional)\b|不要.{{0,4}}表情|絵文字(?:は|を)?(?:いら|やめ|使わ)",
    ),
    (
        "no_question_at_end",
        {},
        r"\b(?:stop|quit|don'?t|do not|no need to|you needn'?t) (?:always |keep )?(?:asking|ask|ending|end|finish\w*|clos\w+)\b[^.!?\n]{0,40}\b(?:if|whether|questions?|anything|more|else|back|end)\b|\bno (?:follow.?up|closing|final|more) questions?\b|\b(?:hör auf|lass das)\b[^.!?\n]{0,30}\b(?:nachfragen|nachzufragen|fragen|zu fragen)\b|\b(?:keine|ohne) (?:\w+ )?(?:rückfragen?|gegenfragen?|fragen?)\b|\bfrag nicht (?:immer|ständig|jedes mal|am ende|am schluss)\b",
    ),
    (
        "asks_first",
        {},
        r"\bask (?:me )?(?:first|before)\b|\byou (?:just |simply )?(?:guessed|assumed)\b|\bdon'?t (?:just )?(?:guess|assume)\b|\bshould(?:'ve| have) asked\b|\bfrag (?:mich )?(?:bitte )?(?:erst|vorher|zuerst|lieber)\b|\bnicht (?:einfach )?raten\b|\bdas hast du (?:geraten|erfunden)\b|\bdemande d'abord\b",
    ),
    ("units", {"system": "celsius"}, r"\bcelsius\b|°\s?c\b|摄氏|摂氏"),
    ("units", {"system": "fahrenheit"}, r"\bfahrenheit\b|°\s?f\b|华氏|華氏"),
    (
        "units",
        {"system": "metric"},
        r"\b(?:metric|metrisch\w*|métrique\w*|métrico|kilomet\w+|kilometer\w*|centimet\w+|zentimeter\w*|km|cm|kg|kilos?|kilograms?|meters?|metres?)\b",
    ),
    ("units", {"system": "imperial"}, r"\b(?:imperial|miles|feet|inches|pounds and ounces|ounces)\b"),
    ("units", {"system": "euros"}, r"\beuros?\b|€"),
    ("units", {"system": "dollars"}, r"\bdollars?\b|\busd\b"),
    ("units", {"system": "pounds"}, r"\bpounds sterling\b|\bin pounds\b|£"),
    (
        "spelling",
        {"variety": "british"},
        r"\b(?:british|uk) (?:english|spellings?)\b|\bbritisch\w*\b|\bbritain\b|\bwe'?re british\b",
    ),
    (
        "spelling",
        {"variety": "american"},
        r"\b(?:american|us|u\.s\.) (?:english|spellings?)\b|\bamerikanisch\w*\b",
    ),
    (
        "date_format",
        {"format": "iso"},
        r"\biso\b|\byyyy.mm.dd\b|\bjjjj.mm.tt\b|\byear first\b|\bjahr zuerst\b",
    ),
    (
        "date_format",
        {"format": "dotted"},
        r"\b(?:dd|tt)\.mm\.(?:yy|jj)\w*|\bdeutsche[sn]? datum\w*|\bgerman dates?\b",
    ),
    (
        "date_format",
        {"format": "day_month"},
        r"\bday (?:comes )?first\b|\beuropean dates?\b|\bday before (?:the )?month\b|\bday.month.year\b|\btag zuerst\b",
    ),
    ("date_format", {"format": "month_day"}, r"\bmonth (?:comes )?first\b|\bamerican dates?\b"),
    (
        "form_of_address",
        {"form": "du"},
        r"\bduze?\w*\b|\bper du\b|\bsag(?:en)? (?:\w+ ){0,2}du\b|\bsiez\w*\b|\bgesiezt\b|\bsie statt du\b",
    ),
    (
        "form_of_address",
        {"form": "sie"},
        r"\bduz\w*\b|\bgeduzt\b|\bper sie\b|\bsiez\w*\b|\bsagen sie sie\b|\bsie statt du\b",
    ),
    ("form_of_address", {"form": "tu"}, r"\btuto[iy]\w*|\bvouvo[iy]\w*"),
    ("form_of_address", {"form": "vous"}, r"\btuto[iy]\w*|\bvouvo[iy]\w*"),
    (
        "bullets",
        {},
        r"\b(?:bullet points?|bullets|as a list|in a list|stichpunkte\w*|aufzählung|als liste|en liste|en lista)\b",
    ),
    ("numbered", {}, r"\bnumbered\b|\bnumber (?:the|your) (?:steps|points)\b|\bnummerier\w*|\bnumérot\w*"),
    (
        "headings",
        {},
        r"\b(?:with|add|use|mit|some) (?:\w+ )?(?:headings?|headlines?|überschriften?|zwischenüberschriften)\b",
    ),
    (
        "cites_the_input",
        {},
        r"\bquote (?:me|my|the|from)\b|\bcite (?:my|the|from)\b|\bzitier\w*|\bcite le texte\b",
    ),
    (
        "no_apology",
        {},
        rf"\b{_NOT}\b{_NEAR}\b(?:apolog\w+|sorry|entschuldig\w*|excuses?|excuser|disculp\w*|scusar\w*)\b|\bentschuldige dich nicht\b",
    ),
    (
        "no_flattery",
        {},
        rf"\b(?:flatter\w*|sycophan\w*|suck(?:ing)? up|schmeichel\w*|schleim\w*|einschleim\w*|lobhudel\w*)\b|\b{_NOT}\b{_NEAR}\b(?:prais\w+|compliment\w*|great questions?|good questions?|gute frage|tolle frage|loben|lob|gelobt|komplimente?)\b",
    ),
)
"""For each check: fixed parameters, and the words by which people miss it."""

_LANGUAGE_NAMES = {
    "de": "german|deutsch|allemand|alemán|tedesco", "en": "english|englisch|anglais|inglés|inglese", "fr": "french|französisch|français|francés|francese",
    "es": "spanish|spanisch|espagnol|español|castellano|spagnolo", "it": "italian|italienisch|italien|italiano", "pt": "portuguese|portugiesisch|portugais|português",
    "nl": "dutch|niederländisch|néerlandais|nederlands", "zh": "chinese|chinesisch|chinois|中文", "ja": "japanese|japanisch|japonais|日本語",
    "ko": "korean|koreanisch|한국어", "ru": "russian|russisch|русском|по-русски", "ar": "arabic|arabisch|العربية",
}  # fmt: skip
_LANGUAGES = tuple(
    (
        code,
        re.compile(
            rf"\b(?:in|auf|en|em|op|на)\s+(?:{names})\b|\bspeak (?:{names})\b|用(?:{names})|(?:{names})で",
            re.IGNORECASE,
        ),
    )
    for code, names in _LANGUAGE_NAMES.items()
)
_QUOTED: tuple[tuple[str, str, str], ...] = (
    (
        "not_starting_with",
        "texts",
        rf"\b(?:start|begin|open)(?:s|ing)?\b{_NEAR}\b(?:with|by saying)\s+(?:{_QUOTE}|{_BARE})|\b(?:fang|beginn?e?|starte?)\b{_NEAR}\bmit\s+(?:{_QUOTE}|{_BARE})",
    ),
    (
        "starts_with",
        "text",
        rf"\b(?:start|begin|open)\b{_NEAR}\bwith\s+{_QUOTE}|\b(?:fang|beginn?e?|starte?)\b{_NEAR}\bmit\s+{_QUOTE}",
    ),
    (
        "no_phrase",
        "phrases",
        rf"\b(?:stop|quit|don'?t|do not|never|no more|enough with|enough of)\b{_NEAR}(?:\b(?:say\w*|use|using|writ\w+)\s+(?:the (?:word|phrase) )?(?:{_QUOTE}|{_BARE})|{_QUOTE})|\b(?:sag|schreib|benutz\w*|verwende)\b{_NEAR}\bnicht\b{_NEAR}{_QUOTE}|\bhör auf\b{_NEAR}{_QUOTE}",
    ),
)
"""For each check on words: its parameter, and how people name the words."""
_NEGATED = re.compile(rf"\b(?:{_NOT}|every|always|each|jede\w*|immer|ständig)\b", re.IGNORECASE)
_NUMBER_TABLE = [(check, key, re.compile(words, re.IGNORECASE)) for check, key, words in _NUMBERS if words]
_PLAIN_TABLE = [(check, fixed, re.compile(words, re.IGNORECASE)) for check, fixed, words in _PLAIN]
_QUOTED_TABLE = [(check, key, re.compile(words, re.IGNORECASE)) for check, key, words in _QUOTED]
_NO_WORD = frozenset(
    "the that this those these with every always sorry such things stuff all any das die der den dem mit".split()
)


@dataclass(frozen=True, kw_only=True)
class Meant:
    """A rule that the answer broke, according to a complaint."""

    check: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the words say of the parameters; a number may be missing."""
    words: str
    """The words by which the rule was recognised."""


def meant(words: str, request: str, answer: str) -> tuple[Meant, ...]:
    """Return the rules that a complaint is about: those that its words name and that the answer breaks.

    Args:
        words: The user's complaint.
        request: The request that was answered.
        answer: The answer that the complaint is about.
    """
    found: dict[str, Meant] = {}
    for one in _candidates(words):
        kind = key_of(one.check, one.parameters)
        if kind not in found and _breaks(one, request, answer):
            found[kind] = one
    if len(found) > 1:  # "stop saying sorry" is about apologies, not about a word
        found = {kind: one for kind, one in found.items() if one.check != "no_phrase"} or found
    return tuple(found.values())


def key_of(check: str, parameters: Mapping[str, Any]) -> str:
    """Return what complaints about one rule have in common: the check, and the parameters but for numbers."""
    fixed = [value for value in parameters.values() if not isinstance(value, int)]
    return ":".join([check, *(str(part).lower() for value in fixed for part in _parts(value))])


def completed(
    check: str, read: Sequence[Mapping[str, Any]], lengths: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Return the parameters of a check for several complaints: what most of them say.

    A complaint that states no number counts as a vote for a limit between the lengths of the bad answers and
    of those that followed. So one person who wants a single word does not outvote those who only want less
    text. If several numbers are named equally often, the mildest is taken.

    Args:
        check: The check.
        read: The parameters that each complaint states.
        lengths: For each complaint, the number of words of the answer, and of the answer that followed (0 if
            none did).
    """
    parameters = {key: value for each in read for key, value in each.items() if not isinstance(value, int)}
    key = {"max_words": "most", "max_sentences": "most", "min_words": "least"}.get(check)
    numbers = [each[key] for each in read if key in each] if key else []
    if key and check != "max_sentences" and len(numbers) < len(read):
        numbers += [_limit(check, lengths)] * (len(read) - len(numbers))
    if key and numbers:
        mildest = max if key == "most" else min
        most = max(map(numbers.count, numbers))
        parameters[key] = mildest(number for number in numbers if numbers.count(number) == most)
    return parameters


def _limit(check: str, lengths: Sequence[tuple[int, int]]) -> int:
    """Return a number of words, a multiple of ten, between bad answers and those that followed."""
    bad = median(count for count, _ in lengths)
    if check == "min_words":
        good = [after for before, after in lengths if after > before]
        return max(10, round((median(good) * 0.8 if good else bad * 2) / 10) * 10)
    good = [after for before, after in lengths if 0 < after < before]
    return max(10, round((median(good) * 1.2 if good else bad / 2) / 10) * 10)


def _candidates(words: str) -> Iterator[Meant]:
    """Yield the rules that the words of a complaint may be about, the most explicit ones first."""
    for check, key, pattern in _NUMBER_TABLE:
        for match in pattern.finditer(words):
            said = next(value for value in match.groups() if value)
            number = int(said) if said.isdigit() else _COUNTED.get(said.lower(), 0)
            if number:
                yield Meant(check=check, parameters={key: number}, words=match.group())
    for check, key, pattern in _QUOTED_TABLE:
        for match in pattern.finditer(words):
            said = next(index for index, text in enumerate(match.groups(), 1) if text)
            negative = _NEGATED.search(words[: match.start(said)]) is not None
            phrase = match.group(said).strip().rstrip(".,!?")
            if not _is_phrase(phrase) or negative == (check == "starts_with"):
                continue
            value = phrase if check == "starts_with" else (phrase,)
            yield Meant(check=check, parameters={key: value}, words=match.group())
    for code, pattern in _LANGUAGES:
        if found := pattern.search(words):
            yield Meant(check="language", parameters={"code": code}, words=found.group())
    for check, fixed, pattern in _PLAIN_TABLE:
        if found := pattern.search(words):
            yield Meant(check=check, parameters=fixed, words=found.group())


def _is_phrase(text: str) -> bool:
    """Return whether a text may stand in a rule: a few words of letters, nothing that could be an order."""
    few = 1 <= len(text.split()) <= 5 and len(text) <= LONGEST_PHRASE
    return few and re.fullmatch(r"[\w' \u2019-]+", text) is not None and text.lower() not in _NO_WORD


def _breaks(one: Meant, request: str, answer: str) -> bool:
    """Return whether the answer breaks a rule; a rule without its number is broken by any answer of words."""
    if refusal(one.check, one.parameters, {}):
        return len(words_of(answer)) > 1
    if (
        one.check == "language"
    ):  # of an answer in no language that can be told, nobody can say that it is wrong
        return language_of(answer) not in ("", one.parameters["code"])
    return bool(answer.strip()) and bool(fault(one.check, one.parameters, request, answer))


def _parts(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)
