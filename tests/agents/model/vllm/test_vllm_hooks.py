"""The hooks on a model's layers, without a vLLM: rows are read and steered for their own requests."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from torch import nn

from agents.model.settings import ModelSettings
from agents.model.steering.concept_vectors import ConceptVectors, write
from agents.model.steering.wire import (
    MAX_STRENGTH,
    check_strengths,
    engine_arguments,
    engine_strengths,
    salt_part,
)
from agents.model.vllm.config import PluginConfig
from agents.model.vllm.readout.hooks import Hooks, decoder_layers, refusal
from agents.model.vllm.readout.publisher import Publisher
from agents.model.vllm.readout.scores import PassScores, unpack
from corpus.errors import UsageError
from store.home import Home

HIDDEN, CONCEPTS = 8, ("asking", "joy")


def vllm_config(**changed: Any) -> Any:
    """Return the used part of vLLM's configuration."""
    model = SimpleNamespace(
        enforce_eager=True,
        hf_text_config=SimpleNamespace(num_hidden_layers=3),
        get_hidden_size=lambda: HIDDEN,
        model="a name on no hub",
    )
    parallel = SimpleNamespace(world_size=1, data_parallel_size=1)
    fields = {"model_config": model, "parallel_config": parallel, "use_v2_model_runner": False}
    return SimpleNamespace(**{**fields, "speculative_config": None, **changed})


class Layer(nn.Module):
    """A layer that returns the residual stream in two parts, as vLLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        residual = hidden + residual
        return self.mix(residual).tanh(), residual


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, stream: torch.Tensor) -> list[torch.Tensor]:
        """Return the residual stream after each layer."""
        hidden, residual, after = stream, torch.zeros_like(stream), []
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
            after.append(hidden + residual)
        return after


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory whose path is short enough for a socket."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


class HookedDecoder:
    """A decoder with our hooks, fed batches as vLLM's runner feeds its model."""

    def __init__(self, folder: Path, *, readout: bool = True) -> None:
        torch.manual_seed(0)
        values = torch.randn(1, len(CONCEPTS), HIDDEN).numpy()
        self.vectors = ConceptVectors(concepts=CONCEPTS, layers=(1,), values=values, weights_version="w")
        write(folder / "readout", self.vectors)
        config = PluginConfig(
            home=Home(folder), model=ModelSettings(url="http://here", readout=readout), database=""
        )
        self.decoder = Decoder()
        self.plain = Decoder()
        self.plain.load_state_dict(self.decoder.state_dict())
        self.context = zmq.Context()
        self.listener = self.context.socket(zmq.SUB)
        self.listener.subscribe(b"")
        self.listener.connect(f"ipc://{folder / 'readings'}")
        self.publisher = Publisher(folder / "readings")
        self.hooks = Hooks(self.decoder, vllm_config(), config, self.publisher)
        while not self.listener.poll(20):  # until it is heard
            self.publisher.publish(torch.zeros(0, 1, 2), lambda values: self._nothing(values))

    def _nothing(self, values: Any) -> PassScores:
        return PassScores(
            digest="", concepts=CONCEPTS, layers=(1,), requests=(), first=(), counts=(), scores=values
        )

    def begin(self, *new: tuple[str, Any], gone: tuple[str, ...] = ()) -> None:
        """Schedule new requests, with their extra arguments, and end others."""
        brought = [
            SimpleNamespace(req_id=name, sampling_params=SimpleNamespace(extra_args=extra))
            for name, extra in new
        ]
        self.hooks.track(SimpleNamespace(scheduled_new_reqs=brought, finished_req_ids=set(gone)))

    @torch.inference_mode()
    def run(self, stream: torch.Tensor, batch: list[tuple[str, int, int, int]]) -> list[torch.Tensor]:
        """Run one pass; of each request: name, tokens in the pass, tokens before it, length of the prompt."""
        starts = np.array([0, *np.cumsum([tokens for _, tokens, _, _ in batch])])
        runner = SimpleNamespace(
            query_start_loc=SimpleNamespace(np=starts),
            input_batch=SimpleNamespace(
                req_ids=[name for name, _, _, _ in batch],
                num_computed_tokens_cpu=np.array([computed for _, _, computed, _ in batch]),
                num_prompt_tokens=np.array([prompt for _, _, _, prompt in batch]),
            ),
        )
        self.hooks.before_pass(runner)
        after = self.decoder(stream)
        self.hooks.after_pass()
        return after

    def last_published(self) -> PassScores | None:
        """Return the scores that were published last, without those of the start."""
        while self.listener.poll(500):
            passed = unpack(self.listener.recv_multipart())
            if passed.requests:
                return passed
        return None

    def close(self) -> None:
        self.publisher.close()
        self.listener.close(0)
        self.context.term()


@pytest.fixture
def hooked(folder: Path) -> Iterator[HookedDecoder]:
    hooked = HookedDecoder(folder)
    yield hooked
    hooked.close()


BATCH = [("a", 3, 0, 3), ("b", 1, 9, 5), ("c", 2, 0, 7), ("d", 1, 4, 5)]
"""A whole prompt, a token of an answer, a piece of a prompt, and a prompt's last token."""


def test_each_request_of_a_batch_gets_its_own_scores(hooked: HookedDecoder) -> None:
    stream = torch.randn(7, HIDDEN)
    after = hooked.run(stream, BATCH)
    passed = hooked.last_published()
    assert (
        passed is not None and passed.requests == ("a", "b", "d") and passed.digest == hooked.vectors.digest
    )
    assert passed.first == (0, 5, 0) and passed.counts == (1, 1, 1)
    wanted = after[1][[2, 3, 6]] @ torch.from_numpy(hooked.vectors.values[0]).T
    assert torch.allclose(torch.from_numpy(passed.scores[:, 0].copy()), wanted, atol=1e-6)


@torch.inference_mode()
def test_steering_moves_only_the_request_that_asks_for_it(hooked: HookedDecoder) -> None:
    stream = torch.randn(7, HIDDEN)
    hooked.begin(
        ("a", None), ("b", {"steer": engine_arguments({"joy": 3.0}, "d")}), ("c", {"steer": "nonsense"})
    )
    steered, plain = hooked.run(stream, BATCH), hooked.plain(stream)
    others = [0, 1, 2, 4, 5, 6]
    assert all(torch.equal(one[others], two[others]) for one, two in zip(steered, plain, strict=True))
    unit = torch.nn.functional.normalize(torch.from_numpy(hooked.vectors.values[0, 1]), dim=0)
    assert torch.equal(steered[0], plain[0])
    assert torch.allclose(steered[1][3] - plain[1][3], 3.0 * unit, atol=1e-5)
    assert not torch.allclose(steered[2][3], plain[2][3], atol=1e-2)
    hooked.begin(gone=("b",))
    assert torch.equal(hooked.run(stream, BATCH)[2], plain[2])


def test_a_request_that_opts_out_is_not_read_and_the_others_are(hooked: HookedDecoder) -> None:
    hooked.begin(("a", {"readout": False}), ("d", {"readout": False}))
    stream = torch.randn(7, HIDDEN)
    after = hooked.run(stream, BATCH)
    passed = hooked.last_published()
    assert passed is not None and passed.requests == ("b",) and passed.first == (5,)
    wanted = after[1][3] @ torch.from_numpy(hooked.vectors.values[0]).T
    assert passed.scores[0, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


@torch.inference_mode()
def test_with_the_readout_off_nothing_is_published_and_steering_works(folder: Path) -> None:
    hooked = HookedDecoder(folder, readout=False)
    stream = torch.randn(7, HIDDEN)
    assert torch.equal(hooked.run(stream, BATCH)[2], hooked.plain(stream)[2])
    hooked.begin(("b", {"steer": engine_arguments({"asking": 1.0}, "d")}))
    assert not torch.equal(hooked.run(stream, BATCH)[2][3], hooked.plain(stream)[2][3])
    assert hooked.last_published() is None
    hooked.close()


def test_a_subscriber_that_reads_nothing_delays_no_request(hooked: HookedDecoder) -> None:
    for _ in range(1500):
        hooked.run(torch.randn(7, HIDDEN), BATCH)


@pytest.mark.parametrize(
    ("changed", "cure"),
    [
        ({"model_config": SimpleNamespace(enforce_eager=False)}, "--enforce-eager"),
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"parallel_config": SimpleNamespace(world_size=2, data_parallel_size=1)}, "without parallelism"),
        ({"parallel_config": SimpleNamespace(world_size=1, data_parallel_size=2)}, "without parallelism"),
        ({"speculative_config": object()}, "without speculative decoding"),
    ],
)
def test_a_vllm_that_cannot_be_read_is_refused_with_the_cure(changed: dict[str, Any], cure: str) -> None:
    assert cure in refusal(vllm_config(**changed))
    assert not refusal(vllm_config())


def test_the_decoders_layers_are_found_by_their_number() -> None:
    model = nn.ModuleDict({"vision": Decoder(), "language": Decoder()})
    model["vision"].layers = nn.ModuleList([Layer()])
    assert decoder_layers(model, vllm_config()) is model["language"].layers
    assert decoder_layers(nn.Linear(1, 1), vllm_config()) is None


def test_strengths_are_checked_and_sorted_and_zeros_left_out() -> None:
    assert check_strengths({"joy": 2, "asking": 0}, CONCEPTS) == {"joy": 2.0}
    assert list(check_strengths({"joy": 2, "asking": -1.5}, CONCEPTS)) == ["asking", "joy"]
    for wrong in (
        {"anger": 1},
        {"joy": True},
        {"joy": "1"},
        {"joy": float("nan")},
        {"joy": 2 * MAX_STRENGTH},
        [],
        3,
        "joy",
    ):
        with pytest.raises(UsageError):
            check_strengths(wrong, CONCEPTS)


@pytest.mark.parametrize(
    "extra",
    [
        None, {}, {"steer": None}, {"steer": {"joy": 1.0}}, {"steer": {"add": {"joy": float("inf")}}},
        {"steer": {"add": {"joy": "1"}}}, {"steer": {"add": {"joy": 1e30}}}, {"steer": {"add": ["joy"]}},
    ],
)  # fmt: skip
def test_arguments_that_bypass_the_check_steer_nothing(extra: Any) -> None:
    assert engine_strengths(extra) == {}


def test_only_requests_that_are_steered_alike_share_prefixes() -> None:
    def part(extra: Any) -> str:
        return salt_part(SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra)))

    salts = [
        part({"steer": engine_arguments({name: strength}, digest)})
        for name in CONCEPTS for strength in (1.0, 2.0) for digest in ("d", "e")
    ]  # fmt: skip
    assert len(set(salts)) == len(salts) and all(salts)
    assert part({"steer": engine_arguments({"joy": 1.0}, "d"), "other": 1}) == part(
        {"steer": engine_arguments({"joy": 1.0}, "d")}
    )
    assert part(None) == part({"readout": False}) == salt_part(SimpleNamespace(sampling_params=None)) == ""
