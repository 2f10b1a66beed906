"""Bytes to lines to values: only whole lines come out, and whatever is in them is a value or a reason."""

import io
import json
import random
import tracemalloc
from typing import Any

import pytest

from corpus.lines import (
    MAX_DEPTH,
    MAX_LINE,
    MAX_VALUES,
    BadLine,
    RawLine,
    array_items,
    decode,
    is_array,
    whole_lines,
)


def lines(data: bytes, **options: Any) -> list[RawLine]:
    return list(whole_lines(io.BytesIO(data), until=len(data), **options))


def value(data: bytes, number: int = 1) -> Any:
    return decode(RawLine(number=number, data=data, end=len(data)))


def reason(data: bytes) -> str:
    found = value(data)
    assert isinstance(found, BadLine)
    return found.reason


def test_a_line_comes_out_only_once_its_newline_is_there() -> None:
    assert [line.data for line in lines(b"one\ntwo\nthr")] == [b"one", b"two"]
    assert lines(b"") == [] == lines(b"unfinished")


def test_a_line_knows_its_number_and_where_it_ends_so_that_reading_goes_on_there() -> None:
    data = b"one\n\nthree\r\nfour\n"
    for line in lines(data):
        rest = lines(data, offset=line.end, number=line.number)
        assert rest == lines(data)[line.number :]


def test_lines_are_the_same_however_the_stream_hands_out_its_bytes() -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(3, size or 3))

    data = b"a\nbcdefgh\n\nij\nrest"
    assert list(whole_lines(Dribble(data), until=len(data))) == lines(data)


def test_what_is_written_behind_the_size_at_opening_waits_for_the_next_time() -> None:
    assert [line.data for line in whole_lines(io.BytesIO(b"one\ntwo\n"), until=5)] == [b"one"]


def test_a_line_over_the_limit_is_told_and_the_lines_around_it_are_whole() -> None:
    found = lines(b"a\n" + b"x" * 101 + b"\n" + b"y" * 100 + b"\n", limit=100)
    assert [line.data for line in found] == [b"a", None, b"y" * 100]
    assert decode(found[1], limit=100) == BadLine(line=2, reason="longer than 9.53674e-05 MiB")


def test_an_endless_line_is_passed_over_in_bounded_memory() -> None:
    class Endless(io.RawIOBase):
        """Eighty million bytes of one line, then a short one."""

        left = 80_000_000

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def read(self, size: int = -1) -> bytes:
            size, self.left = min(size, self.left), self.left - size
            return b"x" * size if size > 0 else b"\nshort\n"

    tracemalloc.start()
    found = list(whole_lines(Endless(), until=80_000_007, limit=2**20))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [line.data for line in found] == [None, b"short"]
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
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\uDC00 a": 1}', "surrogate"),
        (b"1" * 5000, "digits"),
        (b"[" * 10_000 + b"]" * 10_000, f"deeper than {MAX_DEPTH}"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, f"deeper than {MAX_DEPTH}"),
        (b"[" + b"{}," * MAX_VALUES + b"{}]", "values"),
    ],
)
def test_a_line_that_cannot_be_used_says_why(data: bytes, expected: str) -> None:
    assert expected in reason(data)


def test_a_surrogate_pair_is_a_letter_and_brackets_in_a_text_are_no_depth() -> None:
    assert value(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}
    assert value(json.dumps("[{" * 20_000 + '\\"').encode()) == "[{" * 20_000 + '\\"'


def test_a_reason_never_quotes_the_line() -> None:
    for broken in (b'{"hunter2": 1, "hunter2": 2}', b'{"a": hunter2}', b'"hunter2', b'{"a": "hunter2\xff"}'):
        assert "hunter2" not in reason(broken)


def test_lines_made_to_be_slow_are_not() -> None:
    for made in (b'"' + b'\\"' * 4_000_000, b"[" * MAX_LINE, b'"",' * 4_000_000):
        assert isinstance(value(made), BadLine)


def test_a_file_that_begins_as_an_array_of_objects_is_told_from_lines() -> None:
    assert (
        is_array(b'[{"a": 1}')
        and is_array(b'\xef\xbb\xbf\n [\n  {"a"')
        and is_array(b"[")
        and is_array(b"[]")
    )
    assert not is_array(b'{"a": []}') and not is_array(b"[INFO] started\n") and not is_array(b"")


def test_the_items_of_an_array_are_as_good_as_lines() -> None:
    values = [{"a": "],[{\\"}, [1, [2]], "x", 3]
    for data in (json.dumps(values).encode(), json.dumps(values, indent=2).encode() + b"\n"):
        items = [item for item in array_items(data) if isinstance(item, RawLine)]
        assert [decode(item) for item in items] == values
        assert [item.number for item in items] == [1, 2, 3, 4]


def test_an_array_that_is_cut_off_or_goes_on_gives_its_items_and_a_reason() -> None:
    cut, more = list(array_items(b'[{"a":1},{"b":')), list(array_items(b'[{"a":1}] [2]'))
    assert isinstance(cut[-1], BadLine) and "never ends" in cut[-1].reason and len(cut) == 2
    assert isinstance(more[-1], BadLine) and "more after the end" in more[-1].reason and len(more) == 2


def test_two_thousand_damaged_lines_are_values_or_reasons() -> None:
    draw = random.Random(1)
    messages = b'{"messages": [{"role": "user", "content": "caf\\u00e9 \\ud83d\\ude00 [x] {y}"}], '
    good = messages + b'"n": [1.5e3, null]}'
    for _ in range(2000):
        data = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            place = draw.randrange(len(data))
            data[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        found = value(bytes(data))
        json.dumps(found if not isinstance(found, BadLine) else found.reason, ensure_ascii=False).encode()
        list(array_items(b"[" + bytes(data)))
