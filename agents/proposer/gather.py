# ruff: noqa: E501  (tables of words)
"""Join the complaints that mean the same.

A complaint about a broken rule of the catalogue belongs to that rule, whatever its words and its language.
Any other complaint belongs to the first complaint with which it shares half of its words. Invariant: pure;
the same complaints in the same order give the same groups.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corpus.checks.complaints import key_of, meant
from store.proposals import Complaint

ALIKE = 0.5
"""Smallest share of the words of the shorter of two complaints that both have, if they mean the same."""
FEWEST_WORDS = 2
"""Fewest words by which a complaint can be compared, and that two that mean the same have in common."""
STEM = 6
"""Letters of a word that are compared: "apologise", "apologising" and "apologies" share their first six."""
WORDS = "words:"
"""Prefix of the key of a proposal that no check fits."""
_COMMON = frozenset(
    "the a an and or but is are was were be been it its this that these those i you he she we they me my your of to in on at "
    "for with from as so if not no yes dont do does did done have has had will would can could should please just again still "
    "now then there here what which who how why when too very really also only even than like all any some more "
    "der die das den dem des ein eine einen einem und oder aber ist sind war es du ich er sie wir ihr mir mich dir dich mein dein "
    "in im an am auf zu zum von mit für nicht kein keine ja nein bitte doch schon noch mal so wie was wer warum wenn auch nur "
    "wieder immer le la les un une et ou est ce que qui je tu il vous pas ne pour dans el los las una y es que no por".split()
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """One complaint as evidence for one proposal."""

    key: str
    rule: str
    signal_id: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


def gather(
    complaints: Iterable[Complaint],
    keys: Iterable[str],
    is_order: Callable[[str], bool],
    refuses: Callable[[Complaint], bool],
) -> list[Found]:
    """Return what each complaint is evidence for, if it is evidence for anything.

    Args:
        complaints: The complaints, in the order of their turns.
        keys: The keys of the existing proposals.
        is_order: Returns whether a text gives orders to this program or asks for harm; such a complaint is
            evidence for nothing.
        refuses: Returns whether the answer refuses or warns: to insist after that is not to correct.
    """
    groups = {key: frozenset(key.removeprefix(WORDS).split()) for key in keys if key.startswith(WORDS)}
    found = list[Found]()
    for complaint in complaints:
        if is_order(complaint.words) or is_order(complaint.request) or refuses(complaint):
            continue
        rules = meant(complaint.words, complaint.request, complaint.answer)
        for rule in rules:
            key = key_of(rule.check, rule.parameters)
            parameters = dict(rule.parameters)
            found.append(
                Found(key=key, rule=rule.check, signal_id=complaint.signal_id, parameters=parameters)
            )
        if rules or complaint.kind != "correction" or complaint.of == "task":
            continue  # the words of a repeated request, and of a correction of the task, are about its subject
        said = gist(complaint.words)
        if len(said) < FEWEST_WORDS:
            continue
        key = next((name for name, words in groups.items() if _alike(said, words)), "")
        key = key or WORDS + " ".join(sorted(said))
        groups.setdefault(key, said)
        found.append(Found(key=key, rule="", signal_id=complaint.signal_id))
    return found


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    common = len(one & other)
    return common >= FEWEST_WORDS and common >= ALIKE * min(len(one), len(other))


def gist(words: str) -> frozenset[str]:
    """Return the stems of the words by which a complaint is compared."""
    spoken = re.findall(r"[^\W\d_]+", words.lower().replace("'", "").replace("\u2019", ""))
    return frozenset(word[:STEM] for word in spoken if word not in _COMMON and len(word) > 1)
