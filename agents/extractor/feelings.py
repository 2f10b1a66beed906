# ruff: noqa: E501  (one pattern a row)
"""Feeling tags: the writer's mood, estimated from the words and the punctuation of a turn.

Invariant: pure; every score is over 0 and at most 1, and a feeling without evidence is left out. The small
lexicon knows no irony and no context. So the tags only order lessons; they never decide what is trained.
"""

import re

from agents.extractor.cues import plain

FEELINGS = ("frustrated", "grateful", "worried", "curious", "pleased", "hurried", "tired")

_LEXICON: dict[str, tuple[tuple[str, float], ...]] = {
    "frustrated": (
        (r"\b(?:ugh|argh|grr+|sigh|ffs|wtf|damn|annoying|annoyed|frustrat\w*|ridiculous|unbelievable|fed up|sick of)\b", 0.6),
        (r"\b(?:again|still|keep|kept|always|how many times|for the last time|seriously|come on|enough)\b", 0.3),
        (r"\b(?:useless|nonsense|rubbish|garbage|stupid|terrible|awful|waste of)\b", 0.5),
        (r"\b(?:stop|no more|quit)\b", 0.25),
        (r"\bwhy (?:do|did|are|would|can'?t) you\b", 0.3),
    ),
    "grateful": (
        (r"\b(?:thank you|thanks|thx|cheers|much obliged|grateful|appreciate\w*)\b", 0.6),
        (r"\b(?:so much|a lot|very much|really appreciate)\b", 0.2),
    ),
    "worried": (
        (r"\b(?:worr\w+|afraid|scared|nervous|anxious|concerned|dangerous|risky|careful)\b", 0.6),
        (r"\b(?:irreplaceable|cannot be undone|lost (?:all|everything)|what if|panic\w*|oh no)\b", 0.4),
    ),
    "curious": (
        (r"\b(?:curious|wonder(?:ing)?|interesting|interested|out of interest)\b", 0.6),
        (r"\b(?:how come|what if|why is|why does|how does)\b", 0.3),
    ),
    "pleased": (
        (r"\b(?:perfect\w*|exactly|excellent|wonderful|brilliant|great|lovely|love (?:it|this|that)|spot on|awesome)\b", 0.6),
        (r"\b(?:good|nice|better|happy|glad|well done)\b", 0.4),
    ),
    "hurried": (
        (r"\b(?:hurry|hurried|asap|quick(?:ly)?|no time|in a rush|right now|busy|late|deadline|waiting)\b", 0.5),
        (r"\b(?:just (?:the answer|do it|tell me)|get to the point|short on time|customer)\b", 0.3),
    ),
    "tired": (
        (r"\b(?:tired|exhausted|long day|late shift|sleepy|worn out|headache|yawn)\b", 0.6),
        (r"\b(?:please,? no|not again|sigh)\b", 0.3),
    ),
}  # fmt: skip
_COMPILED = {
    feeling: [(re.compile(pattern), weight) for pattern, weight in rows] for feeling, rows in _LEXICON.items()
}
_SHOUTED = re.compile(r"\b[A-Z]{3,}\b")
SHOUTING = 0.3
"""Score that frustration gains for words in capitals, and gains again for !! or ??."""


def feelings(text: str) -> dict[str, float]:
    """Return the score of each feeling that a text shows; {} if the text shows none."""
    words = plain(text)
    scores = {
        feeling: sum(weight for pattern, weight in rows if pattern.search(words))
        for feeling, rows in _COMPILED.items()
    }
    if scores["frustrated"]:
        scores["frustrated"] += SHOUTING * bool(_SHOUTED.search(text))
        scores["frustrated"] += SHOUTING * bool(re.search(r"!{2,}|\?{2,}", text))
    if scores["grateful"] and scores["frustrated"]:
        scores["grateful"] /= 2  # "thanks for nothing"
    return {feeling: round(min(1.0, score), 4) for feeling, score in scores.items() if score > 0}


def strongest(*moods: dict[str, float]) -> dict[str, float]:
    """Return all feelings in these results of `feelings`, each with its highest score."""
    names = sorted({name for mood in moods for name in mood})
    return {name: max(mood.get(name, 0.0) for mood in moods) for name in names}
