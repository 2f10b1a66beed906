"""The disk is full at any moment: nothing is lost, nothing is left behind, and the error has the cure."""

import errno
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos import ROOT, prepared_home
from small import CommandResult, environment, run_cli
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from corpus.aliases import Json
from corpus.recipe import MODEL_DIR
from store import queries
from store.checkpoints.store import SPARE_BYTES
from store.ledger import schema
from store.ledger.db import Ledger, now

Night = Callable[..., Json]
LIMITS = (0, 1, 100, 1000, 3000, 4000, 8000)
"""Bytes that a file may have: fewer than the optimizer's state of a short night takes."""


def test_after_any_refused_call_the_parent_loads_nothing_is_left_and_the_next_try_succeeds(
    short_night: Night, tmp_path: Path
) -> None:
    undisturbed = short_night(home=tmp_path / "undisturbed")
    refusals: list[Json] = [
        {"call": "write", "errno": errno.ENOSPC},
        {"call": "fsync", "errno": errno.EIO},
        {"call": "replace", "errno": errno.ENOSPC},
        {"call": "open", "errno": errno.EDQUOT},
        *({"limit": limit} for limit in LIMITS),
    ]
    after = short_night(home=tmp_path / "home", refusals=refusals)
    assert after["status"] == 0 and "trace" not in after, after
    for attempt in after["attempts"]:
        outcome = [attempt[name] for name in ("error", "left", "gone", "faults")]
        assert outcome == ["WriteFailed", [], [], 0], attempt
        assert attempt["loads"] and "nothing was kept" in attempt["message"]
    counts = {
        call: sum(attempt.get("call") == call for attempt in after["attempts"])
        for call in ("write", "fsync", "replace")
    }
    assert counts == {
        "write": counts["write"],
        "fsync": 6,
        "replace": 3,
    }  # three files, and three times their folder
    assert counts["write"] > 50
    assert [attempt["limit"] for attempt in after["attempts"] if "limit" in attempt] == list(LIMITS)
    assert after["served"]
    for name in ("active", "files"):
        assert after[name] == undisturbed[name]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "prune"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "the disk fails"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_a_refusal_names_the_file_and_the_cure(
    short_night: Night, tmp_path: Path, code: int, advice: str
) -> None:
    after = short_night(home=tmp_path / "home", refusals=[{"call": "fsync", "errno": code}])
    weights, *_, manifest = (attempt["message"] for attempt in after["attempts"])
    assert weights.startswith(
        f"the weights cannot be written in {tmp_path / 'home' / 'checkpoints' / 'blobs'} ("
    )
    assert manifest.startswith(f"the manifest cannot be written in {tmp_path / 'home' / 'checkpoints'} (")
    assert all(
        os.strerror(code) in attempt["message"] and advice in attempt["message"]
        for attempt in after["attempts"]
    )


def limited(home: Path, limit: int, *arguments: str) -> CommandResult:
    """Run the real command line with a limit on the size of its files."""
    code = "import sys; from loop.cli.app import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        timeout=240,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)),
    )
    return CommandResult(code=ran.returncode, out=ran.stdout, err=ran.stderr)


def test_an_init_that_cannot_write_its_checkpoint_reports_it_and_succeeds_when_repeated(
    tmp_path: Path,
) -> None:
    message = limited(tmp_path / "home", 1_000_000, "init", "--json").failed(1)
    assert "the weights cannot be written" in message and "ulimit -f" in message
    assert [path for path in (tmp_path / "home" / "checkpoints").rglob("*") if path.is_file()] == []
    assert run_cli(tmp_path / "home", "init", "--json").result["checkpoint"]


def test_init_checks_the_free_space_first_and_reports_the_needed_and_the_available_space(
    tmp_path: Path,
) -> None:
    model, free = tmp_path / "model", shutil.disk_usage(tmp_path).free
    shutil.copytree(MODEL_DIR, model)
    shard = 1 << 32
    for number in range(free // shard + 1):  # files of holes: they take no room
        entry = {"dtype": "F32", "shape": [shard // 4], "data_offsets": [0, shard]}
        head = json.dumps({f"model.layers.{number}.more.weight": entry}).encode()
        with (model / f"more-{number:05}.safetensors").open("wb") as stream:
            stream.write(struct.pack("<Q", len(head)) + head)
            stream.truncate(8 + len(head) + shard)
    message = limited(tmp_path / "home", 1_000_000, "init", "--model", str(model), "--json").failed(13)
    needed, there = map(int, re.findall(r"(\d+) MB", message))
    assert needed * 1e6 > (free // shard + 1) * shard + SPARE_BYTES
    assert there == pytest.approx(free / 1e6, rel=0.1)
    assert [path for path in (tmp_path / "home" / "checkpoints").rglob("*") if path.is_file()] == []


def test_a_full_ledger_keeps_its_rows_and_continues_when_there_is_space(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    full = True

    @event.listens_for(ledger.engine, "connect")
    def limit(connection: Any, _record: Any) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages if full else 1 << 30}")

    def add(text: str) -> None:
        with ledger.writing() as connection:
            connection.execute(
                schema.events.insert().values(at=now(), kind="test", subject="", body={"text": text})
            )

    add("small")
    with pytest.raises(OperationalError, match="full"):
        add("large" * 100_000)
    with ledger.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("SELECT count(*) FROM events").scalar() == 1
        assert queries.checkpoints(connection) == []
    full = False
    add("large" * 100_000)
    ledger.close()


def test_a_command_with_a_full_ledger_reports_it_and_succeeds_when_repeated(
    tmp_path: Path,
) -> None:
    place = prepared_home(tmp_path)
    log = ROOT / "corpus" / "conversations"
    before = place.rows()
    message = limited(place.path, 20_000, "ingest", str(log), "--json").failed(1)
    assert "the ledger cannot be used" in message and "is the disk full" in message
    assert place.rows() == before
    assert run_cli(place.path, "ingest", log, "--json").code == 0
