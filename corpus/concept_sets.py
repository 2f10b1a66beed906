"""The two sets of concepts that vectors are estimated from: the embedded model's world, and the states.

A set is a list of texts. Each text shows one concept or none. The positive texts of a concept are its stories
and framings (in the world, its exchanges). The negative texts are all others, including the neutral tellings.

Invariant: the texts of a set come in one fixed order, and `sha256` identifies them. `check` refuses a set
from which no vectors can be estimated, and names the concept and the place. This module reads files and
writes none. It knows nothing about models.
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
"""Smallest number of texts for a concept of the world, whose vector is a mean over short exchanges."""
STATE_TEXTS = 2
"""Smallest number of texts for a state; each state has two stories."""


@dataclass(frozen=True, kw_only=True)
class ConceptSet:
    """Texts and the concepts that they show."""

    name: Name
    concepts: tuple[str, ...]
    """Names of the concepts, in the order of their vectors."""
    texts: tuple[tuple[str | None, str], ...]
    """(concept, text) for each text; the concept is None for a text that shows no concept."""
    places: dict[str, str]
    """The files of the texts of each concept, by concept; for messages."""
    minimum: int
    """Smallest number of texts for a concept, unless the user gives another number."""
    sha256: str
    """Digest of the concepts and the texts."""

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The concept of each text, in the order of the texts; None for a text without one."""
        return tuple(label for label, _ in self.texts)

    def check(self, minimum: int | None = None) -> None:
        """Raise UsageError unless every concept has enough texts and no text is empty.

        Args:
            minimum: Smallest number of texts for a concept; None for the set's own `minimum`.

        Raises:
            UsageError: The set cannot be used; the message names the concept, the place and the cure.
        """
        least = self.minimum if minimum is None else minimum
        if stray := sorted({label for label, _ in self.texts if label is not None} - set(self.concepts)):
            raise UsageError(
                f"the corpus {self.name!r} has texts of {stray[0]!r}, which is none of its concepts: "
                f"rename or remove them in {self.places.get(stray[0], 'the corpus')}"
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
    """Return the set of this name, with the texts that ship with the package."""
    return of_world() if name == "world" else of_states()


def of_world() -> ConceptSet:
    """Return the set of the world's concepts, which name what the embedded model does to its user."""
    names = world_concepts.CONCEPTS
    texts: list[tuple[str | None, str]] = [
        (name, text) for name in names for text in world_concepts.texts(name)
    ]
    texts += [(None, text) for text in world_concepts.baselines()]
    return ConceptSet(
        name="world",
        concepts=names,
        texts=tuple(texts),
        places=dict.fromkeys(names, str(Path(world_concepts.__file__))),
        minimum=WORLD_TEXTS,
        sha256=hashlib.sha256(json.dumps([names, texts]).encode()).hexdigest(),
    )


def of_states(root: Path = states.HERE) -> ConceptSet:
    """Return the set of the states: their stories and framings, and the scenarios' neutral tellings.

    Args:
        root: The folder that has the folders `stories` and `paired`.
    """
    for folder in ("stories", "paired"):
        if not (root / folder).is_dir():
            raise UsageError(f"there is no folder {root / folder}: the texts of the states belong there")
    texts: list[tuple[str | None, str]] = [
        (state, story) for state in states.STATES for story in states.stories(state, root)
    ]
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


def text_places(concept_set: ConceptSet, root: Path = states.HERE) -> list[str]:
    """Return the place of each text of a shipped set, in the order of its texts.

    The place of a state's text is a file below `corpus/`, with the number of the paragraph for a story. The
    texts of the world are made by a program: the place is the concept and a number.
    """
    if concept_set.name == "world":
        return _numbered(concept_set.labels)
    places = []
    for state in states.STATES:
        name = states.file_name(state)
        count = len(states.stories(state, root))
        places += [f"stories/{name}.txt paragraph {number}" for number in range(1, count + 1)]
    for scenario, tellings in states.scenarios(root).items():
        places += [f"paired/{scenario}/{states.file_name(name)}.txt" for name in tellings]
    return places


def _numbered(labels: tuple[str | None, ...]) -> list[str]:
    counts: Counter[str] = Counter()
    places = []
    for label in labels:
        name = label or "ordinary talk"
        counts[name] += 1
        places.append(f"{name} {counts[name]}")
    return places
