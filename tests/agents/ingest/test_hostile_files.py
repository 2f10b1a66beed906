"""Hostile files in a folder of logs: a clear refusal, no waiting, no crash, bounded memory."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingesting import ingest_path

from agents.ingest.sources import open_log
from corpus import lines
from corpus.errors import UsageError
from store.ledger.db import Ledger

GOOD = json.dumps({"messages": [{"role": "user", "content": "hello"}]}) + "\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    yield ledger
    ledger.close()


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def refusal(ledger: Ledger, file: Path) -> str:
    report = ingest_path(ledger, file)
    assert (report.turns, len(report.quarantined), report.quarantined[0].line) == (0, 1, 0)
    return report.quarantined[0].reason


def test_an_empty_file_gives_nothing_and_is_no_fault(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").write_bytes(b"")
    report = ingest_path(ledger, logs)
    assert [(file.path, file.format) for file in report.files] == [(str(logs / "a.jsonl"), None)]
    assert not report.partial and not report.waiting


def test_binary_data_is_refused(ledger: Ledger, logs: Path) -> None:
    for data in (b"\x89PNG\r\n\x1a\n\0\0\0", b"\0" * 100, random.Random(0).randbytes(5000)):
        (logs / "a.jsonl").write_bytes(data)
        assert "binary" in refusal(ledger, logs / "a.jsonl") or "no known format" in refusal(
            ledger, logs / "a.jsonl"
        )


def test_json_that_is_not_a_log_is_refused_with_its_keys_and_where_the_formats_are(
    ledger: Ledger, logs: Path
) -> None:
    (logs / "a.jsonl").write_text('{"a": 1}\n')
    reason = refusal(ledger, logs / "a.jsonl")
    assert "docs/reference/logs.md" in reason and "its keys: a" in reason


def test_a_refused_file_has_one_event_and_is_read_once_it_is_repaired(ledger: Ledger, logs: Path) -> None:
    file = logs / "a.jsonl"
    file.write_text("broken\n")
    refusal(ledger, file), refusal(ledger, file)
    with ledger.reading() as connection:
        events = connection.exec_driver_sql("SELECT count(*) FROM events WHERE kind='log_set_aside'").scalar()
    assert events == 1
    with file.open("a") as log:
        log.write(GOOD)
    report = ingest_path(ledger, file)
    assert (report.new, [bad.line for bad in report.quarantined]) == (1, [1])


def test_a_line_nested_ten_thousand_deep_is_quarantined_among_good_ones(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").write_text(GOOD + "[" * 10_000 + "]" * 10_000 + "\n" + GOOD.replace("hello", "again"))
    report = ingest_path(ledger, logs)
    assert (report.new, [bad.line for bad in report.quarantined]) == (2, [2])
    (logs / "b.json").write_text("[" * 10_000 + "]" * 10_000 + "\n")
    assert "nested too deep" in ingest_path(ledger, logs / "b.json").quarantined[0].reason


def test_a_file_that_mostly_violates_its_format_is_abandoned(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").write_text(GOOD + "x\n" * 5000)
    report = ingest_path(ledger, logs)
    assert report.new == 1 and len(report.quarantined) < 1500 and "--format" in report.quarantined[-1].reason


def test_an_item_of_an_array_that_breaks_off_is_refused_with_the_reason(ledger: Ledger, logs: Path) -> None:
    (logs / "a.json").write_text('[{"a": "' + "x" * 1_000_000)
    assert "cut off" in refusal(ledger, logs / "a.json")


def test_a_truncated_array_gives_its_complete_items(ledger: Ledger, logs: Path) -> None:
    (logs / "a.json").write_text("[" + GOOD + ", " + GOOD[:20])
    report = ingest_path(ledger, logs)
    assert (report.new, [bad.line for bad in report.quarantined]) == (1, [2])


def test_a_pipe_or_a_device_is_refused_without_waiting_for_it(ledger: Ledger, logs: Path) -> None:
    os.mkfifo(logs / "a.jsonl")
    (logs / "b.jsonl").symlink_to("/dev/zero")
    (logs / "c.jsonl").write_text(GOOD)
    report = ingest_path(ledger, logs)
    assert report.new == 1
    assert [bad.reason for bad in report.quarantined] == [
        "it is a pipe, not a file",
        "it is a device, not a file",
    ]
    for name, kind in (("a.jsonl", "a pipe"), ("b.jsonl", "a device")):
        with pytest.raises(UsageError, match=kind):
            ingest_path(ledger, logs / name)


def test_circular_links_end(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").symlink_to(logs / "b.jsonl")
    (logs / "b.jsonl").symlink_to(logs / "a.jsonl")
    (logs / "again").symlink_to(logs)
    (logs / "c.jsonl").write_text(GOOD)
    report = ingest_path(ledger, logs)
    assert report.new == 1 and len(report.quarantined) == 2
    with pytest.raises(UsageError, match="symbolic links"):
        ingest_path(ledger, logs / "a.jsonl")


def test_a_file_with_a_disk_error_is_quarantined(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").symlink_to("/proc/self/mem")  # opens, and fails when it is read
    (logs / "b.jsonl").write_text(GOOD)
    report = ingest_path(ledger, logs)
    assert report.new == 1 and "cannot be read" in report.quarantined[0].reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused_or_quarantined(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").write_text(GOOD)
    (logs / "a.jsonl").chmod(0)
    with pytest.raises(UsageError, match="permission"):
        ingest_path(ledger, logs / "a.jsonl")
    assert "permission" in ingest_path(ledger, logs).quarantined[0].reason


def test_a_path_without_logs_is_a_usage_error(ledger: Ledger, logs: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        ingest_path(ledger, logs / "nowhere")
    with pytest.raises(UsageError, match="no log in"):
        ingest_path(ledger, logs)


def test_a_folder_named_like_a_log_is_not_a_log(ledger: Ledger, logs: Path) -> None:
    (logs / "a.jsonl").mkdir()
    (logs / "a.jsonl" / "b.jsonl").write_text(GOOD)
    assert ingest_path(ledger, logs).new == 1
    assert open_log(logs / "a.jsonl" / "b.jsonl").stream.close() is None


def test_two_thousand_mangled_lines_never_stop_an_ingest(ledger: Ledger, logs: Path) -> None:
    draw = random.Random(3)
    mangled = []
    for number in range(2000):
        data = bytearray(GOOD.replace("hello", f"hello {number}").encode())
        if number % 3:
            place = draw.randrange(len(data))
            data[place : place + draw.randint(0, 4)] = draw.randbytes(draw.randint(0, 4))
        mangled.append(bytes(data))
    (logs / "a.jsonl").write_bytes(b"".join(mangled) + b"\n")
    report = ingest_path(ledger, logs)
    assert report.new > 666 and report.partial


MEASURED = """
import sys
from pathlib import Path
import anyio
from agents.ingest.read import ingest_paths
from store.ledger.db import Ledger

report = anyio.run(ingest_paths, Ledger(sys.argv[1]), [Path(sys.argv[2])])
print(report.new, [(bad.line, bad.reason) for bad in report.quarantined])
# Not ru_maxrss: a process inherits that of the one that started it.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


def _ran(command: list[str]) -> list[str]:
    """Run the measured process; return the lines that it printed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("filler", [b"\0", b"x", b'{"a":'])
def test_a_line_of_a_gigabyte_is_passed_over_in_under_512_mebibytes(tmp_path: Path, filler: bytes) -> None:
    file = tmp_path / "a.jsonl"
    with file.open("wb") as log:
        log.write(GOOD.encode())
        block = filler * (2**20 // len(filler))
        for _ in range(1024):
            log.write(block)
        log.write(b"\n" + GOOD.replace("hello", "again").encode())
    command = [sys.executable, "-c", MEASURED, f"sqlite:///{tmp_path / 'l.db'}", str(file)]
    printed, memory = _ran(command)
    assert printed == "2 [(2, 'longer than 16 MiB')]"
    assert int(memory) < 512


@pytest.mark.slow
def test_an_array_of_hundreds_of_mebibytes_is_read_in_under_300(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    item = GOOD.replace("hello", "😀" * 2000).encode()
    file.write_bytes(b"[" + b",".join([item] * (400 * 2**20 // len(item))) + b"]")
    command = [sys.executable, "-c", MEASURED, f"sqlite:///{tmp_path / 'l.db'}", str(file)]
    printed, memory = _ran(command)
    assert printed == "1 []"
    assert int(memory) < 300


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("hello", "😀" * (lines.MAX_LINE // 4 - 100)),
        '{"messages": [' + '{"role":"user","content":"ab"},' * 150_000 + '{"role":"user","content":"x"}]}\n',
        '{"a": [' + "1.5," * 400_000 + '1], "messages": []}\n',
    ],
    ids=["wide letters", "many messages", "many numbers"],
)
def test_the_largest_lines_that_are_read_stay_under_512_mebibytes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(GOOD + text)
    command = [sys.executable, "-c", MEASURED, f"sqlite:///{tmp_path / 'l.db'}", str(file)]
    printed, memory = _ran(command)
    assert printed in ("2 []", "1 [(2, 'no message has any text')]")
    assert int(memory) < 512
