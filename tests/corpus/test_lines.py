"""Bytes to lines to values: only complete lines are returned, and each is a value or a reason."""

import io
import json
import random
import tracemalloc
from typing import Any

import pytest

from corpus.lines import (
    MAX_LINE,
    MAX_VALUES,
    BadLine,
    Item,
    RawLine,
    decode,
    in_lines,
    values_in,
    whole_lines,
)


def lines(data: bytes, **options: Any) -> list[RawLine]:
    return list(whole_lines(io.BytesIO(data), until=len(data), **options))


def value(data: bytes, number: int = 1) -> Any:
    return decode(RawLine(number=number, data=data, end=len(data)))


def reason(data: bytes) -> str:
    decoded = value(data)
    assert isinstance(decoded, BadLine)
    return decoded.reason


def test_a_line_is_returned_only_once_its_newline_has_arrived() -> None:
    assert [line.data for line in lines(b"one\ntwo\nthr")] == [b"one", b"two"]
    assert lines(b"") == [] == lines(b"unfinished")


def test_a_line_has_its_number_and_its_end_so_that_reading_can_resume_there() -> None:
    data = b"one\n\nthree\r\nfour\n"
    for line in lines(data):
        rest = lines(data, offset=line.end, number=line.number)
        assert rest == lines(data)[line.number :]


def test_lines_are_the_same_in_whatever_pieces_the_stream_returns_its_bytes() -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(3, size or 3))

    data = b"a\nbcdefgh\n\nij\nrest"
    assert list(whole_lines(Dribble(data), until=len(data))) == lines(data)


def test_bytes_past_the_size_at_opening_wait_for_the_next_read() -> None:
    assert [line.data for line in whole_lines(io.BytesIO(b"one\ntwo\n"), until=5)] == [b"one"]


def test_a_line_over_the_limit_is_reported_and_its_neighbours_are_complete() -> None:
    read = lines(b"a\n" + b"x" * 101 + b"\n" + b"y" * 100 + b"\n", limit=100)
    assert [line.data for line in read] == [b"a", None, b"y" * 100]
    assert decode(read[1], limit=100) == BadLine(line=2, reason="longer than 9.53674e-05 MiB")


def test_an_endless_line_is_passed_over_in_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        """A stream with one line of eighty million bytes, then a short one."""

        left = 80_000_000

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def read(self, size: int = -1) -> bytes:
            size, self.left = min(size, self.left), self.left - size
            return b"x" * size if size > 0 else b"\nshort\n"

    tracemalloc.start()
    read = list(whole_lines(Endless(), until=80_000_007, limit=2**20))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line.data for line in read] == [None, b"short"]
    assert peak < 4 * 2**20


def test_a_good_line_is_its_value_with_or_without_a_byte_order_mark() -> None:
    assert value(b'{"a": [1, 2.5, null, "\xc3\xa9"]}\r') == {"a": [1, 2.5, None, "é"]}
    assert value(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x89PNG\x00\x00", "NUL"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"a": ', "not JSON"),
        (b"1" * 5000, "digits"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deep"),
        (b"[" + b"{}," * MAX_VALUES + b"{}]", "values"),
    ],
)
def test_an_unusable_line_has_a_reason(data: bytes, expected: str) -> None:
    assert expected in reason(data)


def test_what_some_programs_write_although_it_is_no_json_is_read() -> None:
    assert value(b'{"a": NaN, "b": -Infinity}') == {"a": None, "b": None}
    assert value(b'{"a": "\\ud800"}') == {"a": "\ud800"}
    assert value(b'{"a": 1, "a": 2}') == {"a": 2}


def test_a_surrogate_pair_is_a_letter_and_brackets_in_a_string_add_no_depth() -> None:
    assert value(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}
    assert value(json.dumps("[{" * 20_000 + '\\"').encode()) == "[{" * 20_000 + '\\"'


def test_a_reason_never_quotes_the_line() -> None:
    for broken in (b'{"a": hunter2}', b'"hunter2', b'{"a": "hunter2\xff"}'):
        assert "hunter2" not in reason(broken)


def test_lines_built_to_be_slow_are_decoded_quickly() -> None:
    for data in (b'"' + b'\\"' * 4_000_000, b"[" * MAX_LINE, b'"",' * 4_000_000):
        assert isinstance(value(data), BadLine)


def pieces(text: str, size: int = 3) -> list[Item | BadLine]:
    return list(values_in(text[start : start + size] for start in range(0, len(text), size)))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        *[(b'[{"a": 1}', False), (b'\xef\xbb\xbf\n [\n  {"a"', False), (b"[", False), (b"[]", False)],
        *[(b'{\n  "a": 1', False), (b'{"a": 1,\n "b": 2}', False)],
        *[(b'{"a": []}', True), (b"[INFO] started\n", True), (b"", True), (b'{"a": 1}\n{"b', True)],
        (b'{"broken\n{"a": 1}\n', True),
    ],
)
def test_a_file_of_lines_is_distinguished_from_arrays_and_pretty_printed_objects(
    head: bytes, expected: bool
) -> None:
    assert in_lines(head) == expected


def test_the_items_of_an_array_are_read_in_whatever_pieces_its_text_arrives() -> None:
    values = [{"a": "],[{\\"}, [1, [2]], "x", 3, 12345]
    for text in (json.dumps(values), json.dumps(values, indent=2) + "\n"):
        for size in (1, 3, 1000):
            assert [item.value for item in pieces(text, size) if isinstance(item, Item)] == values
    assert [item.number for item in pieces(json.dumps(values)) if isinstance(item, Item)] == [1, 2, 3, 4, 5]


def test_objects_over_several_lines_follow_each_other() -> None:
    text = json.dumps({"a": 1}, indent=1) + "\n" + json.dumps({"b": 2}, indent=1)
    assert [item.value for item in pieces(text) if isinstance(item, Item)] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"a":1},{"b":', "cut off"),
        ('[{"a":1},', "never ends"),
        ('[{"a":1}] [2]', "more after the end"),
        ('[{"a":1}, {"b" 2}, {"c": 3}]', "not JSON"),
        ('[{"a":1}, ' + "[" * 10_000, "nested too deep"),
    ],
)
def test_a_truncated_or_damaged_array_gives_its_items_and_a_reason(text: str, expected: str) -> None:
    first, *_, last = pieces(text, 1000)
    assert first == Item(number=1, value={"a": 1})
    assert isinstance(last, BadLine) and expected in last.reason


def test_each_of_two_thousand_damaged_lines_is_a_value_or_a_reason() -> None:
    draw = random.Random(1)
    messages = b'{"messages": [{"role": "user", "content": "caf\\u00e9 \\ud83d\\ude00 [x] {y}"}], '
    good = messages + b'"n": [1.5e3, null]}'
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(data))
            data[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        decoded = value(bytes(data))
        assert not isinstance(decoded, BadLine) or decoded.reason
        pieces("[" + bytes(data).decode("latin-1"), 50)
