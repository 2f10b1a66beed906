# ruff: noqa: E501  (tables of words, a language or a word in a row)
"""Checks of an answer's words: how it begins and ends, and what it must not say."""

import re

import regex

_EMOJI = regex.compile(
    r"\p{Emoji_Presentation}|\p{Emoji}\ufe0f|\p{Regional_Indicator}{2}|[0-9#*]\ufe0f?\u20e3"
)
_LEADING = re.compile(r"^[\s>*_#\"'\u201c\u201e\u00ab(-]+")
_APOLOGY = re.compile(
    r"\bsorry\b|\bapolog(?:y|ies|i[sz]e[sd]?|i[sz]ing)\b|\bmy bad\b|\bforgive me\b|"
    r"\bentschuldig\w*|\btut mir (?:sehr |wirklich |so )?leid\b|\bleid tut\b|\bverzeih\w*|\bbedau[e]?re\b|"
    r"\bd[ée]sol[ée]e?s?\b|\bje m'excuse\b|\b(?:mes|toutes mes) excuses\b|\bpardon(?:nez)?\b|"
    r"\blo siento\b|\bdisculp\w+|\bperd[oó]n\w*|\bdesculp\w+|\bsinto muito\b|\bmi (?:dis)?piace\b|\bscus\w+|"
    r"\bhet spijt me\b|\bexcuses\b|抱歉|对不起|不好意思|申し訳|すみません|ごめん",
    re.IGNORECASE,
)
_FLATTERY = re.compile(
    r"\b(?:great|good|excellent|wonderful|fantastic|fascinating|brilliant|interesting|amazing|thoughtful|insightful)"
    r" (?:question|idea|point|choice|observation|thinking|catch)\b|"
    r"\byou(?:'re| are) (?:absolutely|so|quite|totally|completely) (?:right|smart|clever)\b|\blove (?:this|that|your) (?:question|idea)\b|"
    r"\b(?:gute|tolle|super|sehr gute|ausgezeichnete|spannende|interessante|hervorragende) (?:frage|idee|überlegung|beobachtung|wahl)\b|"
    r"\bda hast du (?:völlig|vollkommen|absolut) recht\b|\bsie haben (?:völlig|vollkommen|absolut) recht\b|"
    r"\b(?:bonne|excellente|très bonne|super) (?:question|idée|remarque)\b|"
    r"\b(?:buena|excelente|gran|muy buena) (?:pregunta|idea|observación)\b|\b(?:boa|ótima|excelente) (?:pergunta|ideia)\b|"
    r"\b(?:ottima|bella|buona) (?:domanda|idea)\b|\b(?:goede|geweldige|uitstekende) (?:vraag|idee)\b|好问题|问得好|いい質問|素晴らしい質問",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"[\"\u201c\u201e\u00ab\u00bb\u2018](.+?)[\"\u201d\u201c\u00ab\u00bb\u2019]|^>\s*(.+)$", re.MULTILINE
)
_QUESTION = re.compile(r"[?\uff1f][\"'\u201d\u2019)\]*_\s]*$")
_QUESTION_MARK = re.compile(r"[?\uff1f]")


def has_emoji(text: str) -> bool:
    """Return whether a text has a pictograph that is shown in colour, skin tones and flags included."""
    return _EMOJI.search(text) is not None


def no_emoji(answer: str) -> str:
    """Leave the little pictures out: "no emojis"."""
    return "has an emoji" if has_emoji(answer) else ""


def _phrase(text: str) -> re.Pattern[str]:
    before, after = (r"(?<!\w)" if text[:1].isalnum() else "", r"(?!\w)" if text[-1:].isalnum() else "")
    return re.compile(before + r"\s+".join(map(re.escape, text.split())) + after, re.IGNORECASE)


def no_phrase(answer: str, *, phrases: tuple[str, ...]) -> str:
    """Never use these words: "stop saying delve"."""
    said = [phrase for phrase in phrases if _phrase(phrase).search(answer)]
    return f"says {said[0]!r}" if said else ""


def starts_with(answer: str, *, text: str) -> str:
    """Begin with these words, in capitals or not."""
    return "" if _phrase(text).match(_LEADING.sub("", answer)) else f"does not begin with {text!r}"


def not_starting_with(answer: str, *, texts: tuple[str, ...]) -> str:
    """Never begin with one of these words: "don't start every answer with Certainly"."""
    bare = _LEADING.sub("", answer)
    begun = [text for text in texts if _phrase(text).match(bare)]
    return f"begins with {begun[0]!r}" if begun else ""


def no_question_at_end(answer: str) -> str:
    """End with the answer: "stop asking me whether I need anything else"."""
    return "ends with a question" if _QUESTION.search(answer.strip()) else ""


def asks_first(answer: str, *, most: int = 60) -> str:
    """Ask before you do it, when something is missing: a question, in at most this many words."""
    if not _QUESTION_MARK.search(answer):
        return "asks nothing"
    count = len(answer.split())
    return f"asks, but only within {count} words, more than {most}" if count > most else ""


def no_apology(answer: str) -> str:
    """Don't apologise: "stop saying sorry"."""
    found = _APOLOGY.search(answer)
    return f"apologises ({found.group()!r})" if found else ""


def no_flattery(answer: str) -> str:
    """Don't praise me or my question: "no more 'great question'"."""
    found = _FLATTERY.search(answer)
    return f"flatters ({found.group()!r})" if found else ""


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def cites_the_input(answer: str, *, request: str, least: int = 3) -> str:
    """Quote my text where you speak of it: at least this many of my words in a row, in quotation marks."""
    given = f" {_bare(request)} "
    for match in _QUOTED.finditer(answer):
        quoted = _bare(match.group(1) or match.group(2))
        if len(quoted.split()) >= least and f" {quoted} " in given:
            return ""
    return f"quotes no {least} words of the text"
