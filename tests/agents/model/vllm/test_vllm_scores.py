"""The readout's arithmetic: the rows of each request, and the readings of a whole answer."""

import json
from itertools import pairwise

import numpy as np
import pytest

from agents.model.vllm.readout.scores import KEPT_RESPONSES, PassScores, Readings, pack, rows_to_read, unpack


def passed(*parts: tuple[str, int, list[float]], digest: str = "d") -> PassScores:
    """Return a pass at one layer with one concept; of each request: name, first token number, scores."""
    return PassScores(
        digest=digest,
        concepts=("joy",),
        layers=(2,),
        requests=tuple(name for name, _, _ in parts),
        first=tuple(first for _, first, _ in parts),
        counts=tuple(len(scores) for _, _, scores in parts),
        scores=np.array([s for _, _, scores in parts for s in scores], dtype=np.float32).reshape(-1, 1, 1),
    )


def test_the_rows_from_the_last_of_the_prompt_on_are_read() -> None:
    generator = np.random.default_rng(1)
    for _ in range(200):
        count = int(generator.integers(1, 6))
        tokens, computed = generator.integers(1, 9, count), generator.integers(0, 9, count)
        prompts = generator.integers(1, 12, count)
        starts = np.concatenate([[0], tokens.cumsum()])
        rows, first, counts = rows_to_read(starts, computed, prompts)
        wanted = [
            (row, request, computed[request] + row - start - (prompts[request] - 1))
            for request, (start, end) in enumerate(pairwise(starts.tolist()))
            for row in range(start, end)
            if computed[request] + row - start >= prompts[request] - 1
        ]
        owners = [request for request in range(count) for _ in range(counts[request])]
        numbers = [first[request] + at for request in range(count) for at in range(counts[request])]
        assert [
            (row, owner, number) for row, owner, number in zip(rows, owners, numbers, strict=True)
        ] == wanted


def test_a_message_is_json_and_raw_numbers_and_anything_else_is_refused() -> None:
    sent = passed(("a", 0, [0.5, 1.5]), ("b", 7, [-2.0]))
    frames = pack(sent)
    received = unpack(frames)
    assert json.loads(frames[0])["requests"] == ["a", "b"] and len(frames[1]) == 3 * 4
    assert np.array_equal(received.scores, sent.scores) and received.first == (0, 7)
    for broken in ([frames[0]], [frames[0], frames[1][:-4]], [b"[]", b""], [b"{}", b""], [b"\x80", b""]):
        with pytest.raises(ValueError):
            unpack(broken)


def test_a_reading_has_the_mean_and_the_last_of_the_answer_and_the_last_of_the_prompt() -> None:
    readings = Readings()
    readings.add(passed(("a", 0, [9.0]), ("b", 0, [100.0])))
    readings.add(passed(("a", 1, [1.0]), ("b", 1, [200.0])))
    readings.ended("a", "chat", 0, 3)
    assert not readings.complete("chat")
    readings.add(passed(("b", 2, [300.0]), ("a", 2, [2.0])))
    assert readings.complete("chat")
    scores = {"joy": {"prompt": 9.0, "mean": 1.5, "last": 2.0}}
    assert readings.of("chat") == [{"index": 0, "layer": 2, "tokens": 2, "scores": scores}]


def test_tokens_computed_past_the_end_or_twice_do_not_count() -> None:
    readings = Readings()
    readings.add(passed(("a", 0, [5.0, 1.0, 2.0])))
    readings.add(passed(("a", 0, [5.0, 1.0, 2.0, 3.0])))  # preempted, and computed again
    readings.add(passed(("a", 4, [1000.0])))  # a pass ahead of the end
    readings.ended("a", "chat", 0, 4)
    assert readings.complete("chat")
    readings.add(passed(("a", 5, [1000.0])))
    received = readings.of("chat")
    assert received is not None and received[0]["tokens"] == 3 and received[0]["scores"]["joy"]["mean"] == 2.0


def test_an_answer_of_one_token_has_only_the_scores_of_the_prompt() -> None:
    readings = Readings()
    readings.add(passed(("a", 0, [5.0])))
    readings.ended("a", "chat", 0, 1)
    received = readings.of("chat")
    assert received is not None and received[0]["tokens"] == 0
    assert received[0]["scores"]["joy"] == {"prompt": 5.0, "mean": None, "last": None}


def test_dropped_readings_are_left_out_and_scores_of_other_vectors_are_not_mixed_in() -> None:
    readings = Readings()
    readings.add(passed(("a", 0, [5.0, 1.0])))
    readings.add(passed(("a", 2, [7.0]), digest="other"))
    readings.ended("a", "chat", 0, 9)
    assert not readings.complete("chat")
    received = readings.of("chat")
    assert received is not None and received[0]["tokens"] == 1
    assert received[0]["scores"]["joy"] == {"prompt": None, "mean": 7.0, "last": 7.0}


def test_the_choices_of_a_response_come_in_their_order() -> None:
    readings = Readings()
    for index in (2, 0, 1):
        readings.add(passed((f"{index}_a", 0, [float(index), 1.0])))
        readings.ended(f"{index}_a", "chat", index, 2)
    received = readings.of("chat")
    assert received is not None and [entry["index"] for entry in received] == [0, 1, 2]
    assert [entry["scores"]["joy"]["prompt"] for entry in received] == [0.0, 1.0, 2.0]


def test_the_last_responses_are_kept_and_no_more() -> None:
    readings = Readings()
    for number in range(KEPT_RESPONSES + 1):
        readings.add(passed((f"r{number}", 0, [1.0, 2.0])))
        readings.ended(f"r{number}", f"chat-{number}", 0, 2)
    assert readings.of("chat-0") is None and readings.of("chat-1") and readings.of(f"chat-{KEPT_RESPONSES}")
