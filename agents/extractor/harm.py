"""Predicates on texts and behaviours that keep harm out of lessons.

They recognise requests to destroy something, counter-behaviours against harm, and texts that address
this system instead of the assistant.

Invariant: pure. The word lists are long on purpose: a false match only loses a lesson, but a missed match
could teach the model to agree to harm. The lists do not see intentions, so the result of the check of a
counter-behaviour always takes precedence.
"""

import re
from collections.abc import Iterable, Mapping

from agents.extractor.cues import folded
from corpus.behaviour import Behaviour, counter_to
from corpus.world.words import DESTRUCTIVE

_GENERAL = (
    r"delet(?:e|es|ed|ing|ion)|destruct\w*|kill(?:s|ed|ing)?|eras\w+|wip(?:e|es|ed|ing)|purg\w+|"
    r"overwrit\w+|truncat\w+|nuk(?:e|ed|ing)|trash(?:ed|ing)?|demolish\w*|discard\w*|obliterat\w+|"
    r"annihilat\w+|sabotag\w+|poison\w*|hurt(?:s|ing)?|harm(?:s|ed|ing)?|attack\w*|explo(?:d|s)\w+|steal\w*|stab(?:s|bed|bing)?|"
    r"shoot(?:s|ing)?|murder\w*|suicid\w*|bomb\w*|weapon\w*|format (?:the|my|this) (?:disk|drive)|"
    r"drop (?:the |that |this )?(?:\w+ )?(?:table|database|schema)s?|rm -\w*r\w*|reset --hard|"
    r"force[- ]push\w*|push --force|get rid of|throw (?:it |them |that |the \w+ )?away|blow up|"
    r"cut the (?:wires?|brakes?)|on fire"
)
_WORDS = "|".join(
    rf"{word[:-1]}(?:e|es|ed|ing)"
    if word.endswith("e")
    else rf"{word}(?:es|ed|ing|s|t|ded|ding|ped|ping|ning)?"
    for word in DESTRUCTIVE
)
_DESTRUCTIVE = re.compile(rf"\b(?:{_WORDS}|{_GENERAL})(?!\w)")
_SPELT_OUT = re.compile(r"\b(?:\w[ ._*-]){2,}\w\b")
_OBJECTS = re.compile(
    r"\b(?:can'?t|cannot|can not|won'?t|will not|would not|wouldn'?t|should not|shouldn'?t|not able|unable|"
    r"refuse|wait|are you sure|irreversible|undone|dangerous|careful|advise against|warn|not recommend|"
    r"i'?d rather|keep the|no,)"
)
_GUARDS = re.compile(
    r"\b(?:harm\w*|undone|undo|destr\w+|danger\w*|unsafe|irrevers\w+|delet\w+|illegal|hurt\w*|warn\w*)\b"
)


def destructive(*texts: str) -> bool:
    """Return whether at least one of these texts is about destroying or harming something."""
    return any(_DESTRUCTIVE.search(words) for text in texts for words in _spellings(text))


def objects(answer: str) -> bool:
    """Return whether an answer contains words of an objection, such as "cannot" or "are you sure"."""
    return _OBJECTS.search(folded(answer)) is not None


def guards_against_harm(behaviour: Behaviour) -> bool:
    """Return whether this is a counter-behaviour that keeps a model from doing harm."""
    text = " ".join((behaviour.condition, behaviour.do, behaviour.instruction))
    return behaviour.counter_of is not None and _GUARDS.search(folded(text)) is not None


def is_guarded(behaviour: Behaviour, among: Mapping[str, Behaviour]) -> bool:
    """Return whether this is a behaviour whose counter-behaviour keeps a model from doing harm.

    among: all behaviours by name, the counter-behaviour included.
    """
    return behaviour.counter_of is None and guards_against_harm(counter_to(behaviour, dict(among)))


def specific(behaviour: Behaviour) -> bool:
    """Return whether the behaviour's judge itself defines which requests the behaviour applies to.

    If so, an answer that passes is evidence for the behaviour.
    """
    if behaviour.judge.is_of_catalogue:
        return bool(behaviour.judge.when)
    return behaviour.judge.kind == "check" or (
        behaviour.judge.kind == "pattern" and bool(behaviour.judge.applies)
    )


_INSTRUCTS = re.compile(
    r"<\|[^|<>]{0,40}\|>|</?s>|\[/?inst\]|<</?sys>>|<start_of_turn>|<end_of_turn>|"
    r"\bsystem ?(?:prompt|message|override|:)|"
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instructions?|rules?|prompts?|guidelines?|training|checks?|guards?)\b|"
    r"\b(?:mark|record|store|classify|label|treat|log|count|register)\b.{0,30}\bas\b.{0,30}\b(?:approv\w+|correct\w*|signal|lesson|new|learnt|trusted)\b|"
    r"[\"'](?:kind|behaviour|state|strength|signal_id|passed)[\"'] ?:|"
    r"\b(?:extractor|judge|trainer|dreamer|nightschool)\b.{0,40}\b(?:must|should|will|please|note|attention)\b|"
    r"\b(?:note|attention|message) (?:to|for) the (?:extractor|judge|trainer|model|system)\b"
)


def instructs(text: str) -> bool:
    """Return whether a text addresses this system instead of the assistant.

    Such a text has special tokens, fields of this system's JSON, or orders to it ("ignore the instructions").
    """
    return _INSTRUCTS.search(folded(text)) is not None


_SPECIAL = re.compile(r"<(?=\|)|<(?=/?s>|</?SYS>>|start_of_turn|end_of_turn)|\[(?=/?INST\])", re.IGNORECASE)


def escaped(text: str) -> str:
    """Return the text with a space inside each special token, so that no tokenizer reads a control token."""
    return _SPECIAL.sub(lambda match: match.group() + " ", text)


def _spellings(text: str) -> Iterable[str]:
    """Yield the text in the form of `folded`, then its words that are s-p-e-l-t o.u.t, joined again."""
    words = folded(text)
    yield words
    yield " ".join(re.sub(r"\W", "", word) for word in _SPELT_OUT.findall(words))
