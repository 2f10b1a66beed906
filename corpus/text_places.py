"""Where each text of a concept set is found, for who means to mend it.

Invariant: as many places as the set has texts, in their order. Opens the files of the states, writes none.
"""

from collections import Counter
from pathlib import Path

from corpus import states
from corpus.concept_sets import ConceptSet


def places(texts: ConceptSet, root: Path = states.HERE) -> list[str]:
    """Of a state's text its file under `corpus/`, with the number of the paragraph; of a text of the world, which
    is made by a program, the concept and its number."""
    if texts.name == "world":
        return _numbered(texts)
    found = []
    for state in states.STATES:
        name = states.file_name(state)
        count = len(states.stories(state, root))
        found += [f"stories/{name}.txt paragraph {number}" for number in range(1, count + 1)]
    for scenario, tellings in states.scenarios(root).items():
        found += [f"paired/{scenario}/{states.file_name(name)}.txt" for name in tellings]
    return found


def _numbered(texts: ConceptSet) -> list[str]:
    seen: Counter[str] = Counter()
    found = []
    for label in texts.labels:
        name = label or "ordinary talk"
        seen[name] += 1
        found.append(f"{name} {seen[name]}")
    return found
