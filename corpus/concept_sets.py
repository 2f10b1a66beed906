"""The sets of concepts that vectors are made of: the embedded model's world, and the states.

A set is a list of texts, each with the concept that it shows, or none: positives of a concept are its stories and
framings (of the world: its exchanges); negatives are all other texts, the neutral tellings among them. Invariant:
the texts of a set come in one fixed order and `sha256` names them; `check` refuses a set that no vectors could be
made of, and says of what concept and where. Reads files and writes none; knows no model.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from corpus import states
from corpus.errors import UsageError
from corpus.world import concepts as world_concepts

Name = Literal["world", "states"]
NAMES: tuple[Name, ...] = get_args(Name)
WORLD_TEXTS = 12
"""Least texts of a concept of the world: its vector is a mean over short exchanges."""
STATE_TEXTS = 2
"""Least texts of a state: each has as many stories."""


@dataclass(frozen=True, kw_only=True)
class ConceptSet:
    """Texts, and the concepts that they show."""

    name: Name
    concepts: tuple[str, ...]
    """In the order of their vectors."""
    texts: tuple[tuple[str | None, str], ...]
    """The concept that a text shows, None for one that shows none, and the text."""
    places: dict[str, str]
    """Where the texts of each concept are."""
    minimum: int
    """Least texts of a concept, unless the user says another number."""
    sha256: str
    """Names the concepts and the texts."""

    @property
    def labels(self) -> tuple[str | None, ...]:
        """What each text shows."""
        return tuple(label for label, _ in self.texts)

    def check(self, minimum: int | None = None) -> None:
        """Raise `UsageError` unless every concept has so many texts (None: `minimum`), and no text is empty."""
        least = self.minimum if minimum is None else minimum
        if stray := sorted({label for label, _ in self.texts if label is not None} - set(self.concepts)):
            raise UsageError(
                f"the corpus {self.name!r} has texts of {stray[0]!r}, which is none of its concepts"
            )
        for label, text in self.texts:
            if not text.strip():
                where = self.places[label] if label else "the neutral texts"
                raise UsageError(f"a text of {label or 'no concept'!r} is empty: see {where}")
        counts = Counter(self.labels)
        for concept in self.concepts:
            if counts[concept] < least:
                raise UsageError(
                    f"{concept!r} has {counts[concept]} texts in {self.places[concept]}, and needs {least}: "
                    "write more of them there, or ask for fewer (--minimum)"
                )


def load(name: Name) -> ConceptSet:
    """The set of this name, with the texts that ship with the package."""
    return of_world() if name == "world" else of_states()


def of_world() -> ConceptSet:
    """What the embedded model does to its user."""
    names = world_concepts.CONCEPTS
    texts: list[tuple[str | None, str]] = [
        (name, text) for name in names for text in world_concepts.texts(name)
    ]
    texts += [(None, text) for text in world_concepts.baselines()]
    digest = hashlib.sha256(json.dumps([names, texts]).encode()).hexdigest()
    place = str(Path(world_concepts.__file__))
    return ConceptSet(
        name="world",
        concepts=names,
        texts=tuple(texts),
        places=dict.fromkeys(names, place),
        minimum=WORLD_TEXTS,
        sha256=digest,
    )


def of_states(root: Path = states.HERE) -> ConceptSet:
    """The states: their stories and framings, with the neutral tellings of the paired scenarios."""
    for folder in ("stories", "paired"):
        if not (root / folder).is_dir():
            raise UsageError(f"there is no folder {root / folder}: the texts of the states belong there")
    texts: list[tuple[str | None, str]] = []
    texts += [(state, story) for state in states.STATES for story in states.stories(state, root)]
    for scenario, tellings in states.scenarios(root).items():
        if states.BASELINE not in tellings:
            raise UsageError(
                f"{root / 'paired' / scenario} has no {states.BASELINE}.txt: tell the event neutrally"
            )
        texts += [(None if name == states.BASELINE else name, text) for name, text in tellings.items()]
    places = {
        state: f"{root / 'stories' / states.file_name(state)}.txt and {root / 'paired'}"
        for state in states.STATES
    }
    for stray in {label for label, _ in texts if label is not None} - set(states.STATES):
        places[stray] = str(root / "paired")
    return ConceptSet(
        name="states",
        concepts=states.STATES,
        texts=tuple(texts),
        places=places,
        minimum=STATE_TEXTS,
        sha256=states.sha256(root),
    )
