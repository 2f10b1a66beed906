"""Readings on a terminal: every line fits 80 columns and can be read without colour."""

from dataclasses import replace
from typing import Any

import pytest

from loop.cli.show import timeline
from loop.operations.results.readouts import ConversationReadings, ReadingBaseline, TurnReadings

CONCEPTS = [f"concept_{number}" for number in range(20)]


def report(turns: int, **more: Any) -> ConversationReadings:
    """Return readings in which concept n moves from -n/10 to n/10 over the turns."""
    rows = []
    for turn in range(turns):
        share = 2 * turn / max(1, turns - 1) - 1
        readings = {name: share * number / 10 for number, name in enumerate(CONCEPTS)}
        words = (
            f"Turn {turn + 1} says \x1b[31m[red]something[/red] that is long enough to be cut off at the end."
        )
        role = ("user", "assistant")[turn % 2]
        rows.append(TurnReadings(turn=turn + 1, role=role, text=words, scores={}, readings=readings))
    whole = ConversationReadings(
        conversation="conversation 0123456789abcdef",
        layer=2,
        concepts=CONCEPTS,
        weights_sha256="",
        window=2,
        baseline=ReadingBaseline(texts=240, mean={}, spread={}),
        turns=rows,
        checkpoint="",
        named=False,
        as_heard=[],
        written=None,
    )
    return replace(whole, **more)


@pytest.mark.parametrize("turns", [1, 7, 17, 18, 34, 35, 400])
def test_every_line_fits_and_the_bars_show_the_timeline(
    turns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    timeline.shown(report(turns))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and not any("\x1b" in line for line in lines)
    row = next(line for line in lines if line.startswith("concept_19 "))
    bars = [letter for letter in row if letter in timeline.BARS]
    assert bars == sorted(bars) and (turns == 1 or (bars[0], bars[-1]) == ("▁", "█"))
    assert row.split()[-3:] == (["-1.9"] * 3 if turns == 1 else ["-1.9", "+1.9", "+1.9"])
    assert any(f"each column the mean of {-(-turns // 34)}" in line for line in lines) == (turns > 34)


def test_the_concepts_that_move_most_are_shown_first_and_the_rest_are_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    timeline.shown(report(5))
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[0] for line in lines if line.startswith("concept_")]
    assert shown == [f"concept_{number}" for number in range(19, 3, -1)]
    assert any("and 4 concepts that move less" in line for line in lines)
    timeline.shown(report(5, named=True))
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("concept_")]
    assert named == CONCEPTS


def test_the_words_of_the_first_turns_are_printed_unchanged_and_the_others_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    timeline.shown(report(14))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  2 a Turn 2 says ") and "[red]something[/red]" in line for line in lines)
    assert any("and 2 more turns" in line for line in lines)
