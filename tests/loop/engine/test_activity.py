"""The detection of an active user, from two samples of a server's metrics."""

from typing import Any

import pytest

from agents.model.client import parse_metrics
from loop.engine.activity import MetricsSample, user_seen


def sample(**values: Any) -> MetricsSample:
    """Return a sample of an idle server, except for these values."""
    return MetricsSample(
        **{"busy": 0, "finished": 100, "tokens": 5000, "ours": 0, "begun": 40, "quiet": True} | values
    )


@pytest.mark.parametrize(
    "then, now",
    [
        pytest.param({}, {"busy": 1}, id="a user's request runs"),
        pytest.param({}, {"finished": 101, "tokens": 5020}, id="one has come and gone between two looks"),
        pytest.param(
            {},
            {"busy": 9, "ours": 8, "begun": 48, "quiet": False},
            id="one runs beside a batch of ours that was begun since",
        ),
        pytest.param(
            {"busy": 8, "ours": 8, "quiet": False},
            {"busy": 9, "tokens": 5100, "ours": 8, "quiet": False},
            id="one runs beside a batch of ours",
        ),
        pytest.param(
            {"busy": 1},
            {"busy": 1, "tokens": 5003},
            id="one goes on",
        ),
    ],
)
def test_a_user_is_detected_when(then: dict[str, Any], now: dict[str, Any]) -> None:
    base = sample()
    assert user_seen(base, sample(**then), sample(**now))


@pytest.mark.parametrize(
    "then, now",
    [
        pytest.param({}, {}, id="nothing happens"),
        pytest.param({}, {"busy": 8, "ours": 8, "begun": 48, "quiet": False}, id="a batch of ours has begun"),
        pytest.param({}, {"busy": 8, "begun": 48, "quiet": True}, id="the answer came while the figures did"),
        pytest.param({}, {"finished": 108, "begun": 48}, id="a batch of ours has come and gone"),
        pytest.param(
            {"busy": 8, "ours": 8, "begun": 48, "quiet": False},
            {"busy": 8, "tokens": 5100, "finished": 100, "begun": 48},
            id="what ours were is still counted as busy when they have come",
        ),
        pytest.param(
            {"busy": 1}, {"busy": 1}, id="one that was broken off stays in figures that nobody renews"
        ),
        pytest.param({}, {"finished": 3, "tokens": 9}, id="the server has started again"),
    ],
)
def test_no_user_is_detected_when(then: dict[str, Any], now: dict[str, Any]) -> None:
    base = sample()
    assert not user_seen(base, sample(**then), sample(**now))


def test_a_first_sample_shows_no_user() -> None:
    assert not user_seen(None, None, sample(busy=1, finished=5))


def test_metrics_are_read_with_their_labels_and_added_up() -> None:
    text = "\n".join(
        [
            "# HELP vllm:request_success_total Count of successfully processed requests.",
            "# TYPE vllm:request_success_total counter",
            'vllm:request_success_total{engine="0",finished_reason="stop",model_name="a \\"}\\" in it"} 3.0',
            'vllm:request_success_total{engine="0",finished_reason="length",model_name="/m"} '
            "1.2e+02 1700000000",
            'vllm:num_requests_running{engine="0"} 2',
            "nightschool_weights_version 17",
            "a_gauge NaN",
            "",
        ]
    )
    metrics = parse_metrics(text)
    assert metrics["vllm:request_success_total"] == 123.0
    assert metrics["vllm:num_requests_running"] == 2.0
    assert metrics["nightschool_weights_version"] == 17.0
    assert metrics["a_gauge"] != metrics["a_gauge"]
    assert len(metrics) == 4
