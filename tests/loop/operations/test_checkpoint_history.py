"""The history of checkpoints through the real command line, on a home with five nights behind it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import Command
from nights import HEAD, NightsHome, home_of_nights
from transformers import AutoModelForCausalLM

from agents.model.describe import digest
from agents.model.weights.snapshot import to_raw
from corpus.aliases import Json
from corpus.errors import IntegrityFault
from corpus.recipe import MODEL_DIR
from loop.operations.prune import _freed
from store.checkpoints.store import CheckpointStore
from store.ledger.db import Ledger
from store.ledger.schema import checkpoints, meta
from store.nights import history
from store.tensors.raw import RawTensor

Do = Callable[..., Json]
DECISIONS = "kkukk"


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> NightsHome:
    """Make five nights, of which the third was undone by its verdict."""
    return home_of_nights(tmp_path_factory.mktemp("nights") / "home", DECISIONS)


@pytest.fixture
def nights_home(five: NightsHome, tmp_path: Path) -> NightsHome:
    """Copy the home with those nights."""
    return NightsHome(home=Path(shutil.copytree(five.home, tmp_path / "home")), ids=five.ids)


@pytest.fixture
def do(nights_home: NightsHome, command: Command) -> Do:
    """Run a `checkpoints` command that has to succeed; return its JSON."""

    def call(*arguments: object) -> Json:
        ran = command("--home", nights_home.home, "--json", "checkpoints", *arguments)
        assert ran.code == 0, ran
        return ran.result

    return call


@pytest.fixture
def ledger(nights_home: NightsHome) -> Iterator[Ledger]:
    with closing(nights_home.ledger()) as opened:
        yield opened


def files(nights_home: NightsHome) -> set[str]:
    """Return the ids of the checkpoints whose manifest is on the disk."""
    return {path.stem for path in (nights_home.home / "checkpoints").glob("*.json")}


def size(nights_home: NightsHome) -> int:
    """Return the size of the blobs on the disk in bytes."""
    return sum(path.stat().st_size for path in (nights_home.home / "checkpoints" / "blobs").iterdir())


def loads(nights_home: NightsHome, number: int) -> bool:
    """Return whether this checkpoint's weights can be loaded."""
    try:
        return bool(nights_home.store.load_weights(nights_home.ids[number]))
    except IntegrityFault:
        return False


# ---------------------------------------------------------------- list, show


def test_the_list_shows_targets_size_and_pin_of_each_checkpoint(nights_home: NightsHome, do: Do) -> None:
    do("pin", "base")
    do("prune", "--keep-last", 4)
    rows = do("list")["checkpoints"]
    assert [row["id"] for row in rows] == nights_home.ids
    assert [row["targets"] for row in rows] == [[], *[["listen"]] * 5]
    assert [row["pinned"] for row in rows] == [True] + [False] * 5
    assert [row["pruned"] is not None for row in rows] == [False, False, False, True, False, False]
    assert [row["nbytes"] is None for row in rows] == [row["pruned"] is not None for row in rows]
    assert [row["active"] for row in rows] == [False] * 5 + [True]


def test_show_has_relatives_update_verdict_rates_form_and_manifest(nights_home: NightsHome, do: Do) -> None:
    shown = do("show", nights_home.ids[2][:10])
    assert (shown["id"], shown["parent_id"]) == (nights_home.ids[2], nights_home.ids[1])
    assert shown["children"] == [nights_home.ids[3], nights_home.ids[4]]
    assert shown["update"]["verdict"]["decision"] == "keep" and shown["update"]["pairs"]["replay"] == ["p1a"]
    assert shown["manifest"]["cursor"] == shown["manifest"]["seed"] == 2
    assert {"kind", "nbytes", "base", "optimizer"} == set(shown["form"]) and shown["form"]["nbytes"] > 0
    assert {row["name"]: row["counter_of"] for row in shown["behaviours"]} == {
        "listen": None,
        "push_back": "listen",
    }
    assert {row["name"] for row in shown["readings"]} == {"calm", "perplexity"}


# ---------------------------------------------------------------- diff


def test_diff_shows_the_moved_head_the_layers_the_kinds_and_the_pairs(
    nights_home: NightsHome, do: Do
) -> None:
    diff = do("diff", nights_home.ids[4][:12])  # to the active one
    weights = diff["weights"]
    name, _ = HEAD
    first = weights["heads"][0]
    assert (first["tensor"], first["layer"], first["kind"], first["head"]) == (name, 1, "attention q", 2)
    assert first["share"] == 1.0 and first["norm"] == pytest.approx(0.25 * 5 * (32 * 128) ** 0.5, rel=1e-4)
    assert [row["changed"] for row in weights["heads"][1:]] == [0] * (len(weights["heads"]) - 1)
    assert len(weights["heads"]) == 4 * (4 + 2 + 2 + 4)  # q, k, v, o in each of four layers
    assert {row["layer"] for row in weights["layers"] if row["changed"]} == {1, 3}
    assert {row["kind"] for row in weights["kinds"] if row["changed"]} == {"attention q", "mlp down"}
    assert (
        weights["whole"]["changed"] == sum(row["changed"] for row in weights["kinds"]) == 32 * 128 + 384 * 128
    )
    assert [step["update"] for step in diff["added"]] == ["u5"] and diff["removed"] == []
    assert diff["added"][0]["pairs"]["new"] == ["p5a", "p5b"]
    assert diff["added"][0]["pairs"]["replay"] == ["p1a", "p2a", "p3a", "p4a"]
    assert [row["same_scenarios"] for row in diff["behaviours"]] == [True, True]
    assert diff["note"] is None and weights["only_in_one"] == []


def test_a_checkpoint_does_not_differ_from_itself(do: Do) -> None:
    diff = do("diff", "active", "active")
    assert diff["weights"]["whole"]["changed"] == 0 and diff["added"] == diff["removed"] == []


def test_diff_with_a_pruned_checkpoint_has_only_the_ledgers_part_and_a_note(
    nights_home: NightsHome, do: Do, command: Command
) -> None:
    before = do("diff", nights_home.ids[2], nights_home.ids[4])
    do("prune", "--keep-last", 2)
    diff = do("diff", nights_home.ids[2], nights_home.ids[4])
    assert (
        diff["weights"] is None
        and nights_home.ids[2][:12] in diff["note"]
        and "ledger's part alone" in diff["note"]
    )
    assert {key: diff[key] for key in ("behaviours", "added")} == {
        key: before[key] for key in ("behaviours", "added")
    }
    assert (
        "ledger's part alone"
        in command("--home", nights_home.home, "checkpoints", "diff", nights_home.ids[2]).out
    )


@pytest.mark.parametrize(
    "heads, note",
    [
        ({}, "the configuration of this model names no heads"),
        ({"num_attention_heads": 7}, "the layout of the attention heads in this model is not known"),
    ],
)
def test_diff_of_a_model_without_heads_has_a_note(
    nights_home: NightsHome, do: Do, ledger: Ledger, tmp_path: Path, heads: Json, note: str
) -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text())
    del config["num_attention_heads"], config["num_key_value_heads"]
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless" / "config.json").write_text(json.dumps({**config, **heads}))
    with (nights_home.home / "config.toml").open("a") as file:
        file.write(f"[model]\npath = {json.dumps(str(tmp_path / 'headless'))}\n")
    with ledger.writing() as connection:
        connection.execute(
            meta.update().where(meta.c.key == "model").values(value=digest(tmp_path / "headless"))
        )
    result = do("diff", "base")
    assert result["weights"]["heads"] == [] and note in result["note"]
    assert result["weights"]["whole"]["changed"] > 0


def test_without_the_model_directory_a_diff_has_everything_but_the_heads(
    nights_home: NightsHome, do: Do
) -> None:
    with (nights_home.home / "config.toml").open("a") as file:
        file.write('[model]\npath = "/nowhere"\n')
    result = do("diff", "base")
    assert result["weights"]["heads"] == [] and "attention heads cannot be separated" in result["note"]
    assert {row["layer"] for row in result["weights"]["layers"] if row["changed"]} == {1, 3}


# ---------------------------------------------------------------- export


def test_an_exported_checkpoint_is_loaded_bit_for_bit(
    nights_home: NightsHome, do: Do, tmp_path: Path
) -> None:
    result = do("export", nights_home.ids[2][:12], tmp_path / "out")
    weights = nights_home.store.load_weights(nights_home.ids[2])
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert state.keys() >= weights.keys()
    assert all(bytes(to_raw(state[name]).data) == bytes(raw.data) for name, raw in weights.items())
    assert (
        result["weights_sha256"] == do("show", nights_home.ids[2])["weights_sha256"]
        and result["checkpoint"] == nights_home.ids[2]
    )
    assert {file["name"] for file in result["files"]} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }


def test_an_export_is_refused_where_it_would_overwrite_or_has_no_whole_checkpoint(
    nights_home: NightsHome, do: Do, command: Command, tmp_path: Path
) -> None:
    def refused(code: int, *arguments: object) -> str:
        return command("--home", nights_home.home, "--json", "checkpoints", "export", *arguments).failed(code)

    assert "not an empty directory" in refused(2, "base", nights_home.home)
    assert "no checkpoint begins with" in refused(2, "none", tmp_path / "out")
    do("prune", "--keep-last", 3)
    assert "was pruned" in refused(13, nights_home.ids[3], tmp_path / "out")
    damage(nights_home, 4)
    assert "does not match its digest" in refused(12, nights_home.ids[4], tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def damage(nights_home: NightsHome, number: int) -> None:
    """Flip a bit in the middle of a checkpoint's weights."""
    digest = nights_home.store.manifest(nights_home.ids[number]).weights
    (path,) = (nights_home.home / "checkpoints" / "blobs").glob(f"{digest}.*")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


# ---------------------------------------------------------------- prune


@pytest.mark.parametrize(
    "policy",
    [(), ("--keep-last", 0), ("--keep-daily", 0), ("--keep-last", 0, "--keep-daily", 0, "--dry-run")],
)
def test_an_empty_policy_is_refused(
    nights_home: NightsHome, command: Command, policy: tuple[object, ...]
) -> None:
    message = command("--home", nights_home.home, "--json", "checkpoints", "prune", *policy).failed(2)
    assert "empty policy" in message and files(nights_home) == set(nights_home.ids)


def test_prune_removes_what_no_rule_keeps_and_gives_the_reasons_for_the_others(
    nights_home: NightsHome, do: Do
) -> None:
    do("pin", nights_home.ids[1])
    before = size(nights_home)
    dry = do("prune", "--keep-last", 2, "--dry-run")
    assert files(nights_home) == set(nights_home.ids) and dry["dry_run"] is True
    result = do("prune", "--keep-last", 2)
    assert [row["number"] for row in result["pruned"]] == [0, 2, 3] and dry["pruned"] == result["pruned"]
    assert {row["number"]: row["reasons"] for row in result["kept"]} == {
        1: ["pinned"], 4: ["last"], 5: ["active", "last good one", "last"],
    }  # fmt: skip
    assert result["reachable"] == [nights_home.ids[1], nights_home.ids[4]]
    assert result["freed_bytes"] == dry["freed_bytes"] == before - size(nights_home) > 0
    assert files(nights_home) == {nights_home.ids[number] for number in (1, 4, 5)}
    assert [loads(nights_home, number) for number in range(6)] == [False, True, False, False, True, True]
    assert do("verify") == {
        "checkpoints": 3, "hashed": 3, "pruned": 3, "sample": 1.0, "damaged": [], "ledger": [],
    }  # fmt: skip
    again = do("prune", "--keep-last", 2)
    assert again["pruned"] == [] and again["freed_bytes"] == 0 and again["kept"] == result["kept"]


def test_the_active_checkpoint_stays_when_it_is_neither_new_nor_pinned(
    nights_home: NightsHome, do: Do, command: Command
) -> None:
    assert command("--home", nights_home.home, "rollback", nights_home.ids[1]).code == 0
    result = do("prune", "--keep-last", 1)
    assert {row["number"]: row["reasons"] for row in result["kept"]} == {
        1: ["active"],
        5: ["last good one", "last"],
    }
    assert (
        command("--home", nights_home.home, "rollback", nights_home.ids[5]).code == 0
    )  # forward, over what is gone


def test_a_rollback_to_a_pruned_checkpoint_is_refused_with_the_nearest_named(
    nights_home: NightsHome, do: Do, command: Command
) -> None:
    do("prune", "--keep-daily", 2)  # the base is of today, so the days are today and the third of March
    assert files(nights_home) == {nights_home.ids[0], nights_home.ids[5]}
    for arguments in (
        (nights_home.ids[2][:12],),
        (nights_home.ids[4], "--dry-run"),
        (),
    ):  # its parent is gone, too
        message = command("--home", nights_home.home, "--json", "rollback", *arguments).failed(13)
        assert (
            "was pruned" in message and f"the nearest that is there is {nights_home.ids[0][:12]}" in message
        )
    assert command("--home", nights_home.home, "rollback", "base").code == 0


def test_nothing_is_pruned_while_a_night_runs(
    nights_home: NightsHome, command: Command, ledger: Ledger
) -> None:
    with ledger.writing() as connection:
        history.begin_night(connection, seed=1, retry=False)
    message = command("--home", nights_home.home, "--json", "checkpoints", "prune", "--keep-last", 1).failed(
        13
    )
    assert "a night is running" in message and files(nights_home) == set(nights_home.ids)


def test_a_prune_that_was_killed_is_finished_at_the_next_start(
    nights_home: NightsHome, do: Do, ledger: Ledger
) -> None:
    with (
        ledger.writing() as connection
    ):  # its transaction, and no file gone: where it is killed at the latest
        history.set_pruned(connection, nights_home.ids[:5], {"keep_last": 1})
    assert files(nights_home) == set(nights_home.ids)
    verified = do("verify")
    assert (verified["checkpoints"], verified["pruned"], verified["damaged"]) == (1, 5, [])
    do("pin", "active")  # any start will do
    assert files(nights_home) == {nights_home.ids[5]} and loads(nights_home, 5)


def test_damage_to_a_checkpoint_that_stays_stops_a_prune_before_it_removes_anything(
    nights_home: NightsHome, command: Command
) -> None:
    (nights_home.home / "checkpoints" / f"{nights_home.ids[5]}.json").write_text("{}")
    assert command("--home", nights_home.home, "--json", "checkpoints", "prune", "--keep-last", 1).code == 12
    assert files(nights_home) == set(nights_home.ids) and loads(nights_home, 0)


def test_when_the_newest_checkpoint_is_damaged_the_last_good_one_stays(
    nights_home: NightsHome, do: Do
) -> None:
    damage(nights_home, 5)
    result = do("prune", "--keep-last", 1)
    assert {row["number"] for row in result["kept"]} == {4, 5} and loads(nights_home, 4)


def test_a_candidate_without_a_verdict_is_never_pruned(
    nights_home: NightsHome, do: Do, ledger: Ledger
) -> None:
    with ledger.writing() as connection:
        connection.execute(checkpoints.update().where(checkpoints.c.number == 3).values(state="candidate"))
    result = do("prune", "--keep-last", 1)
    assert {row["number"]: row["reasons"] for row in result["kept"]}[3] == [
        "waits for its verdict"
    ] and loads(nights_home, 3)


def test_a_base_that_a_delta_starts_from_is_not_counted_as_freed_and_stays(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    numbers = np.arange(4096, dtype="<u2")
    ids: list[str] = []
    for number in range(3):
        numbers = numbers.copy()
        numbers[number] ^= 1
        weights = {"w": RawTensor(dtype="BF16", shape=numbers.shape, data=numbers.tobytes())}
        ids.append(store.write(weights, None, {"parent": ids[-1] if ids else None}).id)
    forms = [store.stored(name) for name in ids]
    assert [form.form for form in forms] == ["whole", "delta", "delta"]
    assert _freed(store, {ids[0]: [], ids[1]: ["last"], ids[2]: []}) == forms[2].nbytes
    assert _freed(store, {ids[0]: ["active"], ids[1]: [], ids[2]: []}) == forms[1].nbytes + forms[2].nbytes
    store.sweep([ids[1]])
    assert bytes(store.load_weights(ids[1])["w"].data)[:6] == bytes(np.array([1, 0, 2], "<u2"))


# ---------------------------------------------------------------- pin


def test_a_pin_is_reported_recorded_and_removed(nights_home: NightsHome, do: Do, command: Command) -> None:
    result = do("pin", nights_home.ids[3][:9])
    assert result == {"checkpoint": nights_home.ids[3], "number": 3, "pinned": True, "changed": True}
    assert do("pin", nights_home.ids[3])["changed"] is False
    assert do("unpin", nights_home.ids[3]) == {**result, "pinned": False}
    events = command("--home", nights_home.home, "--json", "ledger", "events").result["events"]
    assert [(row["kind"], row["subject"]) for row in events[-2:]] == [
        ("pinned", nights_home.ids[3]), ("unpinned", nights_home.ids[3]),
    ]  # fmt: skip
    do("prune", "--keep-last", 1)
    message = command("--home", nights_home.home, "--json", "checkpoints", "pin", nights_home.ids[3]).failed(
        13
    )
    assert "was pruned" in message and f"only the active one ({nights_home.ids[5][:12]}) is there" in message


# ---------------------------------------------------------------- as a person sees it


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (("list",), "meant to improve"),
        (("show", "active"), "u5 of night n5, kept: orpo, 3 steps"),
        (("show", "base"), "none: this is the base"),
        (("diff", "base"), "layer 1, attention q, head 2"),
        (("diff", "active", "base"), "without update u5 for listen: 2 new pairs and 4 of replay"),
        (("prune", "--keep-last", "2", "--dry-run"), "4 would be pruned, 2 stay"),
        (("pin", "base"), "checkpoint 0"),
        (("verify",), "6 checkpoints: 0 damaged files"),
    ],
)
def test_the_list_is_printed_as_a_table(
    nights_home: NightsHome, command: Command, arguments: tuple[str, ...], shown: str
) -> None:
    ran = command("--home", nights_home.home, "checkpoints", *arguments)
    assert ran.code == 0 and shown in ran.out, ran
