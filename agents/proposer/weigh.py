"""How sure a proposal is, and which behaviours and proposals it contradicts.

Invariant: pure. One person counts at most twice, however often they complain.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from corpus.behaviour import Behaviour
from corpus.checks.measures import RIVALS
from store.proposals import Complaint

MOST_OF_ONE = 2
"""Most conversations of one person that count."""
BY_WORDS = 0.4
"""Weight of a conversation whose complaint no check confirms; of a confirmed one it is 1."""
PRIOR = 2.0
"""Weight of the doubt that a proposal starts with, in conversations."""
_FORMS = ("bullets", "numbered", "headings")


def conversations(complaints: Sequence[Complaint]) -> int:
    """Return the number of conversations that count."""
    of = Counter(source for source, _ in {(one.source, one.conversation_id) for one in complaints})
    return sum(min(count, MOST_OF_ONE) for count in of.values())


def sure(complaints: Sequence[Complaint], *, checked: bool) -> float:
    """Return how sure a proposal is, from 0 to 1: n / (n + PRIOR), with n the weight of its conversations.

    Args:
        complaints: The complaints that it rests on.
        checked: Whether a check confirmed that each answer breaks the rule.
    """
    weight = conversations(complaints) * (1.0 if checked else BY_WORDS)
    return round(weight / (weight + PRIOR), 2)


def same(check: str, parameters: Mapping[str, Any], behaviours: Mapping[str, Behaviour]) -> list[str]:
    """Return the names of the behaviours that teach this rule already, whatever its number."""
    return [
        name
        for name, behaviour in behaviours.items()
        if behaviour.counter_of is None
        and behaviour.judge.check == check
        and behaviour.judge.holds
        and _choices(dict(behaviour.judge.parameters)) == _choices(parameters)
    ]


def contradicted(check: str, parameters: Mapping[str, Any], behaviours: Mapping[str, Behaviour]) -> list[str]:
    """Return the names of the behaviours that ask for the opposite of this rule."""
    return [
        name
        for name, behaviour in behaviours.items()
        if behaviour.counter_of is None
        and behaviour.judge.is_of_catalogue
        and behaviour.judge.holds
        and opposed(check, parameters, behaviour.judge.check, dict(behaviour.judge.parameters))
    ]


def opposed(check: str, parameters: Mapping[str, Any], other: str, others: Mapping[str, Any]) -> bool:
    """Return whether no answer, or hardly one, can follow two rules at once."""
    if check == other:
        mine, theirs = _choices(parameters), _choices(others)
        if check == "units":
            return theirs.get("system") in RIVALS[parameters["system"]]
        return check in ("language", "spelling", "date_format", "form_of_address") and mine != theirs
    rules = {check: parameters, other: others}
    if rules.keys() == {"max_words", "min_words"}:
        return bool(rules["max_words"]["most"] < rules["min_words"]["least"])
    if rules.keys() == {"max_sentences", "min_words"}:
        return True
    if rules.keys() == {"starts_with", "not_starting_with"}:
        return rules["starts_with"]["text"].lower() in [
            t.lower() for t in rules["not_starting_with"]["texts"]
        ]
    return "no_markdown" in rules and bool(rules.keys() & set(_FORMS))


def _choices(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if not isinstance(value, int)}
