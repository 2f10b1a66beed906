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
    """Five nights, of which the third was undone by its verdict."""
    return home_of_nights(tmp_path_factory.mktemp("nights") / "home", DECISIONS)


@pytest.fixture
def made(five: NightsHome, tmp_path: Path) -> NightsHome:
    """A home of one's own with those nights."""
    return NightsHome(home=Path(shutil.copytree(five.home, tmp_path / "home")), ids=five.ids)


@pytest.fixture
def do(made: NightsHome, command: Command) -> Do:
    """The JSON of a `checkpoints` command that is to succeed."""

    def call(*arguments: object) -> Json:
        ran = command("--home", made.home, "--json", "checkpoints", *arguments)
        assert ran.code == 0, ran
        return ran.result

    return call


@pytest.fixture
def ledger(made: NightsHome) -> Iterator[Ledger]:
    with closing(made.ledger()) as found:
        yield found


def files(made: NightsHome) -> set[str]:
    """Ids of the checkpoints whose manifest is on the disk."""
    return {path.stem for path in (made.home / "checkpoints").glob("*.json")}


def size(made: NightsHome) -> int:
    """Bytes of the blobs on the disk."""
    return sum(path.stat().st_size for path in (made.home / "checkpoints" / "blobs").iterdir())


def loads(made: NightsHome, number: int) -> bool:
    """Whether this checkpoint's weights are there, whole."""
    try:
        return bool(made.store.load_weights(made.ids[number]))
    except IntegrityFault:
        return False


# ---------------------------------------------------------------- list, show


def test_the_list_tells_what_each_night_meant_what_it_takes_and_whether_it_is_pinned(
    made: NightsHome, do: Do
) -> None:
    do("pin", "base")
    do("prune", "--keep-last", 4)
    rows = do("list")["checkpoints"]
    assert [row["id"] for row in rows] == made.ids
    assert [row["targets"] for row in rows] == [[], *[["listen"]] * 5]
    assert [row["pinned"] for row in rows] == [True] + [False] * 5
    assert [row["pruned"] is not None for row in rows] == [False, False, False, True, False, False]
    assert [row["nbytes"] is None for row in rows] == [row["pruned"] is not None for row in rows]
    assert [row["active"] for row in rows] == [False] * 5 + [True]


def test_show_tells_family_update_verdict_rates_form_and_manifest(made: NightsHome, do: Do) -> None:
    told = do("show", made.ids[2][:10])
    assert (told["id"], told["parent_id"]) == (made.ids[2], made.ids[1])
    assert told["children"] == [made.ids[3], made.ids[4]]
    assert told["update"]["verdict"]["decision"] == "keep" and told["update"]["pairs"]["replay"] == ["p1a"]
    assert told["manifest"]["cursor"] == told["manifest"]["seed"] == 2
    assert {"kind", "nbytes", "base", "optimizer"} == set(told["form"]) and told["form"]["nbytes"] > 0
    assert {row["name"]: row["counter_of"] for row in told["behaviours"]} == {
        "listen": None,
        "push_back": "listen",
    }
    assert {row["name"] for row in told["readings"]} == {"calm", "perplexity"}


# ---------------------------------------------------------------- diff


def test_diff_finds_the_head_that_moved_the_layers_the_kinds_and_the_pairs(made: NightsHome, do: Do) -> None:
    told = do("diff", made.ids[4][:12])  # to the active one
    weights = told["weights"]
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
    assert [step["update"] for step in told["added"]] == ["u5"] and told["removed"] == []
    assert told["added"][0]["pairs"]["new"] == ["p5a", "p5b"]
    assert told["added"][0]["pairs"]["replay"] == ["p1a", "p2a", "p3a", "p4a"]
    assert [row["same_scenarios"] for row in told["behaviours"]] == [True, True]
    assert told["note"] is None and weights["only_in_one"] == []


def test_a_checkpoint_does_not_differ_from_itself(do: Do) -> None:
    told = do("diff", "active", "active")
    assert told["weights"]["whole"]["changed"] == 0 and told["added"] == told["removed"] == []


def test_diff_with_a_pruned_one_tells_the_ledgers_part_and_says_so(
    made: NightsHome, do: Do, command: Command
) -> None:
    before = do("diff", made.ids[2], made.ids[4])
    do("prune", "--keep-last", 2)
    told = do("diff", made.ids[2], made.ids[4])
    assert (
        told["weights"] is None and made.ids[2][:12] in told["note"] and "ledger's part alone" in told["note"]
    )
    assert {key: told[key] for key in ("behaviours", "added")} == {
        key: before[key] for key in ("behaviours", "added")
    }
    assert "ledger's part alone" in command("--home", made.home, "checkpoints", "diff", made.ids[2]).out


@pytest.mark.parametrize(
    "heads, note",
    [
        ({}, "the configuration of this model names no heads"),
        ({"num_attention_heads": 7}, "the layout of the attention heads in this model is not known"),
    ],
)
def test_a_model_without_heads_says_so(
    made: NightsHome, do: Do, ledger: Ledger, tmp_path: Path, heads: Json, note: str
) -> None:
    config = json.loads((MODEL_DIR / "config.json").read_text())
    del config["num_attention_heads"], config["num_key_value_heads"]
    (tmp_path / "headless").mkdir()
    (tmp_path / "headless" / "config.json").write_text(json.dumps({**config, **heads}))
    with (made.home / "config.toml").open("a") as file:
        file.write(f"[model]\npath = {json.dumps(str(tmp_path / 'headless'))}\n")
    with ledger.writing() as connection:
        connection.execute(
            meta.update().where(meta.c.key == "model").values(value=digest(tmp_path / "headless"))
        )
    told = do("diff", "base")
    assert told["weights"]["heads"] == [] and note in told["note"]
    assert told["weights"]["whole"]["changed"] > 0


def test_without_the_model_directory_the_heads_are_not_told_apart_and_the_rest_is(
    made: NightsHome, do: Do
) -> None:
    with (made.home / "config.toml").open("a") as file:
        file.write('[model]\npath = "/nowhere"\n')
    told = do("diff", "base")
    assert told["weights"]["heads"] == [] and "attention heads cannot be separated" in told["note"]
    assert {row["layer"] for row in told["weights"]["layers"] if row["changed"]} == {1, 3}


# ---------------------------------------------------------------- export


def test_an_exported_checkpoint_is_loaded_bit_for_bit(made: NightsHome, do: Do, tmp_path: Path) -> None:
    told = do("export", made.ids[2][:12], tmp_path / "out")
    weights = made.store.load_weights(made.ids[2])
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert state.keys() >= weights.keys()
    assert all(bytes(to_raw(state[name]).data) == bytes(raw.data) for name, raw in weights.items())
    assert (
        told["weights_sha256"] == do("show", made.ids[2])["weights_sha256"]
        and told["checkpoint"] == made.ids[2]
    )
    assert {file["name"] for file in told["files"]} >= {"model.safetensors", "config.json", "tokenizer.json"}


def test_an_export_is_refused_where_it_would_overwrite_or_has_no_whole_checkpoint(
    made: NightsHome, do: Do, command: Command, tmp_path: Path
) -> None:
    def refused(code: int, *arguments: object) -> str:
        return command("--home", made.home, "--json", "checkpoints", "export", *arguments).failed(code)

    assert "not an empty directory" in refused(2, "base", made.home)
    assert "no checkpoint begins with" in refused(2, "none", tmp_path / "out")
    do("prune", "--keep-last", 3)
    assert "was pruned" in refused(13, made.ids[3], tmp_path / "out")
    damage(made, 4)
    assert "does not match its digest" in refused(12, made.ids[4], tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def damage(made: NightsHome, number: int) -> None:
    """Flip a bit in the middle of a checkpoint's weights."""
    digest = made.store.manifest(made.ids[number]).weights
    (path,) = (made.home / "checkpoints" / "blobs").glob(f"{digest}.*")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


# ---------------------------------------------------------------- prune


@pytest.mark.parametrize(
    "policy",
    [(), ("--keep-last", 0), ("--keep-daily", 0), ("--keep-last", 0, "--keep-daily", 0, "--dry-run")],
)
def test_an_empty_policy_is_refused(made: NightsHome, command: Command, policy: tuple[object, ...]) -> None:
    message = command("--home", made.home, "--json", "checkpoints", "prune", *policy).failed(2)
    assert "empty policy" in message and files(made) == set(made.ids)


def test_prune_takes_what_no_rule_keeps_and_says_why_the_rest_stays(made: NightsHome, do: Do) -> None:
    do("pin", made.ids[1])
    before = size(made)
    dry = do("prune", "--keep-last", 2, "--dry-run")
    assert files(made) == set(made.ids) and dry["dry_run"] is True
    told = do("prune", "--keep-last", 2)
    assert [row["number"] for row in told["pruned"]] == [0, 2, 3] and dry["pruned"] == told["pruned"]
    assert {row["number"]: row["reasons"] for row in told["kept"]} == {
        1: ["pinned"], 4: ["last"], 5: ["active", "last good one", "last"],
    }  # fmt: skip
    assert told["reachable"] == [made.ids[1], made.ids[4]]
    assert told["freed_bytes"] == dry["freed_bytes"] == before - size(made) > 0
    assert files(made) == {made.ids[number] for number in (1, 4, 5)}
    assert [loads(made, number) for number in range(6)] == [False, True, False, False, True, True]
    assert do("verify") == {
        "checkpoints": 3, "hashed": 3, "pruned": 3, "sample": 1.0, "damaged": [], "ledger": [],
    }  # fmt: skip
    again = do("prune", "--keep-last", 2)
    assert again["pruned"] == [] and again["freed_bytes"] == 0 and again["kept"] == told["kept"]


def test_the_active_one_stays_when_it_is_neither_new_nor_pinned(
    made: NightsHome, do: Do, command: Command
) -> None:
    assert command("--home", made.home, "rollback", made.ids[1]).code == 0
    told = do("prune", "--keep-last", 1)
    assert {row["number"]: row["reasons"] for row in told["kept"]} == {
        1: ["active"],
        5: ["last good one", "last"],
    }
    assert command("--home", made.home, "rollback", made.ids[5]).code == 0  # forward, over what is gone


def test_a_rollback_to_what_is_gone_is_refused_and_what_is_there_named(
    made: NightsHome, do: Do, command: Command
) -> None:
    do("prune", "--keep-daily", 2)  # the base is of today, so the days are today and the third of March
    assert files(made) == {made.ids[0], made.ids[5]}
    for arguments in ((made.ids[2][:12],), (made.ids[4], "--dry-run"), ()):  # its parent is gone, too
        message = command("--home", made.home, "--json", "rollback", *arguments).failed(13)
        assert "was pruned" in message and f"the nearest that is there is {made.ids[0][:12]}" in message
    assert command("--home", made.home, "rollback", "base").code == 0


def test_nothing_is_pruned_while_a_night_runs(made: NightsHome, command: Command, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        history.begin_night(connection, seed=1, retry=False)
    message = command("--home", made.home, "--json", "checkpoints", "prune", "--keep-last", 1).failed(13)
    assert "a night is running" in message and files(made) == set(made.ids)


def test_a_prune_that_was_killed_is_finished_at_the_next_start(
    made: NightsHome, do: Do, ledger: Ledger
) -> None:
    with (
        ledger.writing() as connection
    ):  # its transaction, and no file gone: where it is killed at the latest
        history.set_pruned(connection, made.ids[:5], {"keep_last": 1})
    assert files(made) == set(made.ids)
    verified = do("verify")
    assert (verified["checkpoints"], verified["pruned"], verified["damaged"]) == (1, 5, [])
    do("pin", "active")  # any start will do
    assert files(made) == {made.ids[5]} and loads(made, 5)


def test_damage_in_what_is_to_stay_stops_a_prune_before_it_takes_anything(
    made: NightsHome, command: Command
) -> None:
    (made.home / "checkpoints" / f"{made.ids[5]}.json").write_text("{}")
    assert command("--home", made.home, "--json", "checkpoints", "prune", "--keep-last", 1).code == 12
    assert files(made) == set(made.ids) and loads(made, 0)


def test_when_the_newest_is_damaged_the_last_good_one_stays(made: NightsHome, do: Do) -> None:
    damage(made, 5)
    told = do("prune", "--keep-last", 1)
    assert {row["number"] for row in told["kept"]} == {4, 5} and loads(made, 4)


def test_a_candidate_without_a_verdict_is_never_taken(made: NightsHome, do: Do, ledger: Ledger) -> None:
    with ledger.writing() as connection:
        connection.execute(checkpoints.update().where(checkpoints.c.number == 3).values(state="candidate"))
    told = do("prune", "--keep-last", 1)
    assert {row["number"]: row["reasons"] for row in told["kept"]}[3] == ["waits for its verdict"] and loads(
        made, 3
    )


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
    assert [one.form for one in forms] == ["whole", "delta", "delta"]
    assert _freed(store, {ids[0]: [], ids[1]: ["last"], ids[2]: []}) == forms[2].nbytes
    assert _freed(store, {ids[0]: ["active"], ids[1]: [], ids[2]: []}) == forms[1].nbytes + forms[2].nbytes
    store.sweep([ids[1]])
    assert bytes(store.load_weights(ids[1])["w"].data)[:6] == bytes(np.array([1, 0, 2], "<u2"))


# ---------------------------------------------------------------- pin


def test_a_pin_is_told_noted_and_taken_back(made: NightsHome, do: Do, command: Command) -> None:
    told = do("pin", made.ids[3][:9])
    assert told == {"checkpoint": made.ids[3], "number": 3, "pinned": True, "changed": True}
    assert do("pin", made.ids[3])["changed"] is False
    assert do("unpin", made.ids[3]) == {**told, "pinned": False}
    events = command("--home", made.home, "--json", "ledger", "events").result["events"]
    assert [(row["kind"], row["subject"]) for row in events[-2:]] == [
        ("pinned", made.ids[3]), ("unpinned", made.ids[3]),
    ]  # fmt: skip
    do("prune", "--keep-last", 1)
    message = command("--home", made.home, "--json", "checkpoints", "pin", made.ids[3]).failed(13)
    assert "was pruned" in message and f"only the active one ({made.ids[5][:12]}) is there" in message


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
def test_a_person_is_shown_a_table(
    made: NightsHome, command: Command, arguments: tuple[str, ...], shown: str
) -> None:
    ran = command("--home", made.home, "checkpoints", *arguments)
    assert ran.code == 0 and shown in ran.out, ran
