"""The commands for quality reports, readings and pictures, beside a service of the embedded model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from PIL import Image
from small import Service, cli_json, fresh_home

METRICS = {"first_pc", "alignment", "outliers", "neuron", "nearest", "r2", "heads"}
SAID = (
    ("user", "Hey, please book the bench."),
    ("assistant", "For which day shall I book it?"),
    ("user", "In a few words, how do I wrap the bench?"),
    ("assistant", "With the foil."),
)


def log_of(place: Path, *conversations: tuple[tuple[str, str], ...]) -> Path:
    lines = [
        json.dumps({"messages": [{"role": r, "content": t} for r, t in turns]}) for turns in conversations
    ]
    place.write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a home without vectors and without a service."""
    home = fresh_home(tmp_path_factory.mktemp("bare") / "home")
    log_of(home.parent / "log.jsonl", SAID)
    return home


@pytest.fixture(scope="module")
def trained(
    bare: Path, tmp_path_factory: pytest.TempPathFactory, start_service: Callable[..., Service]
) -> Path:
    """Run a service on a home with vectors of two layers and one conversation."""
    home = Path(shutil.copytree(bare, tmp_path_factory.mktemp("trained") / "home"))
    start_service(home).ready()
    cli_json(home, "ingest", bare.parent / "log.jsonl")
    cli_json(home, "readout", "train", "--layers", "1,2")
    return home


@pytest.mark.parametrize("line", ["report", "report --layer 1", "show {log}", "map --out {place}"])
def test_without_vectors_the_error_has_the_cure(
    bare: Path, tmp_path: Path, line: str, command: Command
) -> None:
    words = line.format(log=bare.parent / "log.jsonl", place=tmp_path / "map.svg").split()
    assert "nightschool readout train" in command("--home", bare, "--json", "readout", *words).failed(2)
    assert not (bare / "readout").exists() and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("show", "nightschool ingest"),
        ("show nonsense", "neither a file nor"),
        ("show {log} --number 2", "no number 2"),
        ("show {log} --out x.gif", ".svg nor .png"),
        ("show {log} --out {log}/x.svg", "no folder"),
        ("map --out x.gif", ".svg nor .png"),
        ("map", "--out"),
    ],
)
def test_invalid_arguments_are_refused(bare: Path, line: str, complaint: str, command: Command) -> None:
    words = line.format(log=bare.parent / "log.jsonl").split()
    assert complaint in command("--home", bare, "--json", "readout", *words).failed(2)


@pytest.mark.parametrize(
    ("key", "value"), [("model", "0" * 64), ("corpus_sha256", "0" * 64), ("hidden_size", 64)]
)
def test_vectors_of_another_model_or_other_texts_are_refused(
    trained: Path, bare: Path, tmp_path: Path, key: str, value: object, command: Command
) -> None:
    home = Path(shutil.copytree(bare, tmp_path / "home"))
    shutil.copytree(trained / "readout", home / "readout")
    card = home / "readout" / "readout.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {key: value}))
    command("--home", home, "--json", "readout", "report").failed(12)
    command("--home", home, "--json", "readout", "show", bare.parent / "log.jsonl").failed(12)


def test_the_report_has_every_metric_and_is_stored_in_the_home_with_a_page(
    trained: Path, command: Command
) -> None:
    report = command("--json", "--home", trained, "readout", "report").result
    assert report["layer"] == 2 and report["relative_depth"] == 0.75 and len(report["concepts"]) == 9
    assert all(metrics.keys() >= METRICS | {"verdict"} for metrics in report["concepts"].values())
    stored = json.loads((trained / "readout" / "quality.json").read_text())
    assert stored == {key: value for key, value in report.items() if key not in ("written", "checkpoint")}
    page = (trained / "readout" / "quality.md").read_text()
    assert report["written"] == str(trained / "readout" / "quality.md")
    assert all(
        f"\n## {name}\n" in page and metrics["verdict"] in page
        for name, metrics in report["concepts"].items()
    )
    assert (
        report["leave_one_out"]["accuracy"] > 3 * report["leave_one_out"]["by_chance"]
        and not report["skipped"]
    )
    heads = report["concepts"]["asking"]["heads"]
    assert (
        heads["count"] == 12
        and {head["layer"] for head in heads["top"]} <= {0, 1, 2}
        and len(heads["top"]) == 10
    )
    assert report["weights_version"] == report["weights_sha256"]


def test_the_report_of_a_named_layer_prints_a_line_for_each_concept(trained: Path, command: Command) -> None:
    ran = command("--home", trained, "readout", "report", "--layer", "1")
    assert ran.code == 0 and "layer 1 (50% of the depth)" in ran.out and "\x1b" not in ran.out
    assert json.loads((trained / "readout" / "quality.json").read_text())["layer"] == 1
    command("--home", trained, "readout", "report", "--layer", "3", "--json").failed(2)


def reading(result: dict[str, Any], turn: int, concept: str) -> float:
    return float(result["turns"][turn - 1]["readings"][concept])


def test_the_readings_of_a_conversation_follow_its_turns(
    trained: Path, tmp_path: Path, command: Command
) -> None:
    heard = command("--json", "--home", trained, "readout", "show").result
    assert [(turn["role"], turn["text"]) for turn in heard["turns"]] == list(SAID)
    assert reading(heard, 2, "asking") > 1 > reading(heard, 4, "asking")
    assert reading(heard, 4, "being_brief") > 0.5 > reading(heard, 2, "being_brief")
    of_file = command(
        "--json",
        "--home",
        trained,
        "readout",
        "show",
        log_of(tmp_path / "one.jsonl", SAID[:2], SAID),
        "--number",
        2,
    ).result
    assert of_file["turns"] == heard["turns"] and of_file["conversation"] == "one.jsonl, number 2 of 2"
    assert heard["as_heard"] == of_file["as_heard"] == []  # no night has listened yet
    mean, spread = heard["baseline"]["mean"]["asking"], heard["baseline"]["spread"]["asking"]
    assert (heard["turns"][1]["scores"]["asking"] - mean) / spread == pytest.approx(
        reading(heard, 2, "asking")
    )
    conversation_id = heard["conversation"].split()[-1]
    some = command(
        "--json",
        "--home",
        trained,
        "readout",
        "show",
        conversation_id[:10],
        "--concepts",
        "being_brief,asking",
    ).result
    assert some["concepts"] == list(some["turns"][0]["readings"]) == ["being_brief", "asking"]
    command("--home", trained, "readout", "show", "--concepts", "joy", "--json").failed(2)


def test_the_pictures_are_written_in_both_forms(trained: Path, tmp_path: Path, command: Command) -> None:
    result = command("--json", "--home", trained, "readout", "show", "--out", tmp_path / "course.svg").result
    assert result["written"] == str(tmp_path / "course.svg")
    assert all(f">{name}</text>" in (tmp_path / "course.svg").read_text() for name in result["concepts"])
    ran = command("--home", trained, "readout", "show", "--out", tmp_path / "course.png")
    assert ran.code == 0 and max(map(len, ran.out.splitlines()[:-1])) <= 80
    mapped = command("--json", "--home", trained, "readout", "map", "--out", tmp_path / "map.svg").result
    assert (mapped["layer"], mapped["concepts"]) == (2, 9)
    assert command("--home", trained, "readout", "map", "--layer", 1, "--out", tmp_path / "map.png").code == 0
    for name in ("course.png", "map.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG" and image.width > 1000
