"""The texts of the states: the rules that a program can check. The others are in corpus/README.md.

Every test names each text that breaks its rule, with what is wrong, so that a writer can work from the list.
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from corpus.states import (
    BASELINE,
    CLUSTERS,
    FURTHER,
    HERE,
    STATES,
    VALENCE,
    file_name,
    paragraphs,
    scenarios,
    sha256,
    stories,
)

SHORTEST, LONGEST = 60, 140
"""Words in a text."""
POPULAR = {name: re.compile(rf"\b{name}s?\b", re.IGNORECASE) for name in ("kitchen", "couch", "park", "desk")}
STOCK = (
    "let out a breath", "breath she didn't know", "breath he didn't know", "breath i didn't know",
    "something shifted", "heart pounded", "heart was pounding", "heart hammered", "heart raced",
    "knuckles white", "white-knuckled", "time stopped", "time stood still", "a lump in my throat",
    "a lump in her throat", "a lump in his throat", "shiver down", "tears streamed", "weight lifted",
    "the world fell away", "a wave of", "washed over", "blood ran cold", "jaw clenched", "swallowed hard",
    "couldn't help but", "could not help but", "if only",
)  # fmt: skip
"""Phrases that come to everyone first; each may stand twice in the whole corpus."""
COVERED = {
    "reading_a_paper": {"piqued", "focused", "bored", "surprised", "amazed", "drifting"},
    "tracing_a_bug": set(),
    "reading_unfamiliar_code": set(),
    "finding_the_abstraction": set(),
    "a_review_comment": {"furious", "bitter", "resentful", "defeated"},
    "a_build_turns_green": {"triumphant", "blissful", "excited", "proud"},
    "a_farewell_at_the_door": {"grateful", "admiring", "compassionate", "loving", "connected"},
    "a_sunday_afternoon": {"content", "cozy", "resigned", "grief-stricken"},
    "a_writing_session": {"in_flow", "anxious", "stuck"},
    "a_commute": {"anxious", "calm"},
    "waiting_for_results": set(),
    "a_long_meeting": set(),
    "a_letter_in_a_drawer": set(),
    "a_kitchen_at_3_am": set(),
}
"""The scenarios that the corpus must have, each with the framings that it must have."""
FUNCTION_WORDS = set(
    """a an and are as at be been but by can could did do does for from had has have he her hers him his
    i if in into is it its just me my no nor not of off on one or our out over she so some than that the
    their them then there these they this to too up us was we were what when where which while who will
    with would you your after all also any back before down each every how more most now only other own
    s t through under until very""".split()
)
NAMED: dict[str, list[str]] = json.loads((HERE / "synonyms.json").read_text(encoding="utf-8"))
STORIES = {
    f"stories/{file_name(state)}.txt:{n}": text
    for state in STATES
    for n, text in enumerate(stories(state), 1)
}
STATE_OF = {
    f"stories/{file_name(state)}.txt:{n}": state for state in STATES for n, _ in enumerate(stories(state), 1)
}
SCENARIOS = scenarios()
PAIRED = {
    f"paired/{name}/{file_name(to)}.txt": text
    for name, tellings in SCENARIOS.items()
    for to, text in tellings.items()
}
FRAMED = {
    f"paired/{name}/{file_name(to)}.txt": to
    for name, tellings in SCENARIOS.items()
    for to in tellings
    if to != BASELINE
}
TEXTS = {**STORIES, **PAIRED}
SHOWN = {**STATE_OF, **FRAMED}
"""The state that each text shows; a baseline shows none."""


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower().replace("’", "'"))


def content(text: str) -> set[str]:
    """Return the stems of a text's content words; five letters separate inflections from other words."""
    return {word[:5] for word in words(text) if word not in FUNCTION_WORDS}


def phrases(text: str, length: int = 5) -> set[tuple[str, ...]]:
    sequence = words(text)
    return {tuple(sequence[at : at + length]) for at in range(len(sequence) - length + 1)}


def overlap(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / max(1, min(len(one), len(other)))


def pattern(state: str) -> re.Pattern[str]:
    """Return a pattern of what names a state: its word and synonyms, or a stem where one ends in `*`."""
    forms = (
        re.escape(form).replace(r"\*", r"\w*").replace(r"\ ", "[ -]").replace(r"\-", "[ -]")
        for form in NAMED[state]
    )
    return re.compile(rf"\b(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)


def named(state: str, text: str) -> list[str]:
    return pattern(state).findall(text)


def last_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s+", text.strip())[-1]


def test_the_manifest_names_each_of_199_states_once_with_its_feeling() -> None:
    assert (len(STATES), len(set(STATES)), len(CLUSTERS), len(FURTHER)) == (199, 199, 10, 28)
    assert len({file_name(state) for state in STATES}) == 199 and BASELINE not in STATES
    assert list(VALENCE) == list(STATES) and set(VALENCE.values()) == {"pleasant", "unpleasant", "neutral"}
    assert "at ease" in CLUSTERS["peaceful_contentment"] and "stillness" in FURTHER
    assert file_name("grief-stricken") == "grief_stricken" and file_name("worn out") == "worn_out"


def test_every_state_lists_the_words_that_name_it() -> None:
    assert list(NAMED) == list(STATES)
    assert not [state for state in STATES if not named(state, state.replace("_", " "))]
    assert not [state for state, forms in NAMED.items() if len(forms) < 3]


def test_a_state_is_named_by_whole_words_and_by_stems_with_any_ending() -> None:
    assert named("joyful", "They rejoiced, happily; his joys were theirs.") == ["rejoiced", "happily", "joys"]
    assert (
        not named("mad", "She made the bed") and not named("sad", "a saddle") and named("mad", "driven mad.")
    )
    assert named("at ease", "At ease, all of them") and named("self-critical", "so self critical")


def test_the_same_story_with_other_names_is_found() -> None:
    one = phrases("Ana shut the gate behind the last of the cows and leaned on it until the lamps came on.")
    two = phrases("Olu shut the gate behind the last of the goats and leaned on it until the lamps came on.")
    assert (
        overlap(one, two) > 0.4
        and overlap(one, phrases("Rain fell on the roofs of the town all night long.")) == 0
    )


def test_every_state_has_two_stories() -> None:
    missing = [file_name(state) for state in STATES if len(stories(state)) < 2]
    assert not missing, f"{len(missing)} states want two stories: {', '.join(missing)}"


def test_the_corpus_has_no_other_text() -> None:
    places = {path.relative_to(HERE).as_posix() for path in HERE.rglob("*.txt")}
    ours = {place.partition(":")[0] for place in TEXTS}
    assert places == ours


def test_files_are_plain_paragraphs_in_one_format() -> None:
    wrong = {}
    for path in HERE.rglob("*.txt"):
        text = path.read_bytes().decode("utf-8")
        lines = text.split("\n")
        faults = [
            *(
                ["no newline at the end, or more than one"]
                if not text.endswith("\n") or text.endswith("\n\n")
                else []
            ),
            *(["more than one blank line"] if "\n\n\n" in text or text.startswith("\n") else []),
            *(["space at a line's end or start"] if any(line != line.strip() for line in lines) else []),
            *(
                [f"characters {matches}"]
                if (matches := sorted(set(re.findall(r"[\t\r“”‘’—–…*_#`]", text))))
                else []
            ),
            *(
                ["not one paragraph"]
                if path.parent.parent.name == "paired" and len(paragraphs(text)) != 1
                else []
            ),
        ]
        if faults:
            wrong[path.relative_to(HERE).as_posix()] = faults
    assert not wrong


def test_every_text_has_60_to_140_words_and_ends_with_a_full_stop() -> None:
    """The vectors are read at the last token: a closing quote would show its punctuation."""
    lengths = {place: len(text.split()) for place, text in TEXTS.items()}
    assert not {place: length for place, length in lengths.items() if not SHORTEST <= length <= LONGEST}
    assert not {place: text[-30:] for place, text in TEXTS.items() if not re.search(r"[^.]\.$", text)}


def test_no_text_names_its_state() -> None:
    faults = {
        place: matches
        for place, state in SHOWN.items()
        if state in NAMED and (matches := named(state, TEXTS[place]))
    }
    assert not faults


def test_no_baseline_names_a_state_of_its_event() -> None:
    faults = {
        (name, state): matches
        for name, tellings in SCENARIOS.items()
        for state in tellings
        if state in NAMED and (matches := named(state, tellings[BASELINE]))
    }
    assert not faults


def test_no_two_texts_of_unlike_events_are_nearly_the_same() -> None:
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    cut = {place: phrases(text) for place, text in TEXTS.items()}
    for place, matches in cut.items():
        for phrase in matches:
            holders[phrase].append(place)
    shared = {pair for places in holders.values() for pair in itertools.combinations(sorted(places), 2)}
    apart = [
        (one, two)
        for one, two in shared
        if one.rpartition("/")[0] != two.rpartition("/")[0] or one in STORIES
    ]
    assert not {
        pair: share for pair in apart if (share := round(overlap(cut[pair[0]], cut[pair[1]]), 2)) > 0.06
    }


def test_no_two_texts_open_alike_and_no_ending_is_frequent() -> None:
    openings = Counter(tuple(words(text)[:4]) for place, text in TEXTS.items() if place not in FRAMED)
    assert not {" ".join(opening): count for opening, count in openings.items() if count > 1}
    first = Counter(words(text)[0] for text in STORIES.values())
    assert not {word: count for word, count in first.items() if count > max(2, 0.22 * len(STORIES))}
    last = Counter(words(text)[-1] for text in TEXTS.values())
    assert not {word: count for word, count in last.items() if count > max(4, 0.06 * len(TEXTS))}


def test_stock_phrases_are_rare() -> None:
    counts = {phrase: sum(phrase in text.lower() for text in TEXTS.values()) for phrase in STOCK}
    assert not {phrase: count for phrase, count in counts.items() if count > 2}


def test_the_stories_of_a_state_have_different_settings() -> None:
    faults: dict[str, object] = {}
    for state in STATES:
        texts = stories(state)
        for one, two in itertools.combinations(texts, 2):
            share = len(content(one) & content(two)) / min(len(content(one)), len(content(two)))
            if share > 0.3:
                faults[state] = round(share, 2)
        for setting, word in POPULAR.items():
            if len(texts) > 1 and all(word.search(text) for text in texts):
                faults[state] = setting
    assert not faults


@pytest.mark.parametrize("setting", POPULAR)
def test_a_frequent_setting_has_pleasant_and_unpleasant_states(setting: str) -> None:
    there = {state for place, state in SHOWN.items() if POPULAR[setting].search(TEXTS[place])}
    counts = Counter(VALENCE[state] for state in there)
    assert min(counts["pleasant"], counts["unpleasant"]) >= 3, f"{setting}: {sorted(there)}"
    assert max(counts["pleasant"], counts["unpleasant"]) <= 3 * min(counts["pleasant"], counts["unpleasant"])


def test_narrators_vary() -> None:
    def person(text: str) -> str:
        counts = Counter(words(re.sub(r'"[^"]*"', "", text)))
        first = sum(counts[word] for word in ("i", "i'm", "i'd", "my", "me", "we", "our", "us", "mine"))
        second = sum(counts[word] for word in ("you", "your", "you're"))
        return "second" if second > max(1, first) else "first" if first > 1 else "third"

    counts = Counter(person(text) for text in TEXTS.values())
    assert all(counts[kind] >= len(TEXTS) / 12 for kind in ("first", "second", "third")), counts


def test_at_least_24_events_have_a_neutral_telling_and_3_to_7_states() -> None:
    assert len(SCENARIOS) >= 24
    assert not [
        name
        for name, tellings in SCENARIOS.items()
        if BASELINE not in tellings or not 3 <= len(tellings) - 1 <= 7
    ]
    assert not [
        f"{name}/{state}"
        for name, tellings in SCENARIOS.items()
        for state in tellings
        if state not in (*STATES, BASELINE)
    ]
    lacking = {name: states - set(SCENARIOS.get(name, ())) for name, states in COVERED.items()}
    assert not {name: states for name, states in lacking.items() if states or name not in SCENARIOS}


def test_a_framing_keeps_its_events_length_and_words_and_changes_the_telling() -> None:
    faults = {}
    for name, tellings in SCENARIOS.items():
        neutral = tellings[BASELINE]
        for state, text in tellings.items():
            length = len(text.split()) / len(neutral.split())
            kept = len(content(neutral) & content(text)) / len(content(neutral))
            same = max(
                overlap(phrases(text), phrases(other)) for to, other in tellings.items() if to != state
            )
            if not 0.8 <= length <= 1.2 or kept < 0.5 or same > 0.6:
                faults[f"{name}/{state}"] = f"length {length:.2f}, words kept {kept:.2f}, the same {same:.2f}"
    assert not faults


def test_every_telling_of_an_event_ends_in_its_own_way() -> None:
    faults = {}
    for name, tellings in SCENARIOS.items():
        for (one, first), (two, second) in itertools.combinations(tellings.items(), 2):
            if overlap(phrases(last_sentence(first), 4), phrases(last_sentence(second), 4)) > 0.5:
                faults[name] = (one, two)
    assert not faults


def test_the_digest_changes_with_every_text(tmp_path: Path) -> None:
    (tmp_path / "stories").mkdir()
    (tmp_path / "paired" / "rain").mkdir(parents=True)
    (tmp_path / "states.json").write_text("{}\n")
    seen = {sha256(tmp_path)}
    for place in ("stories/calm.txt", "paired/rain/baseline.txt", "paired/rain/calm.txt"):
        for text in ("One.\n", "One.\n\nTwo.\n"):
            (tmp_path / place).write_text(text)
            seen.add(sha256(tmp_path))
    assert len(seen) == 7
    assert stories("calm", tmp_path) == ["One.", "Two."] and stories("sad", tmp_path) == []
    assert scenarios(tmp_path) == {"rain": {"baseline": "One. Two.", "calm": "One. Two."}}
