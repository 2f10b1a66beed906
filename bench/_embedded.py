"""Shared parts of the steering benches: the embedded model, its pass rates, its readings, one update.

Invariant: what is trained goes through the trainer's own update on a mapping of its own; every run starts
from the shipped weights. Knows no ledger and no service.
"""

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from agents.evaluator.judge import judge
from agents.evaluator.scenarios import held_out, sampling_seeds
from agents.model.embedded.activation_steering import Offsets
from agents.model.embedded.chat import ChatTokenizer
from agents.model.embedded.forward import forward_for
from agents.model.embedded.sampling import GenerationRequest, Sampler
from agents.model.embedded.server import end_ids
from agents.model.steering.wire import Direction
from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights
from agents.readout.concept_vectors import Array, concept_vectors, scores
from agents.trainer.messages import Example, Settings, TrainRequest
from agents.trainer.scoring import prefix_scoring
from agents.trainer.scoring.residual_stream import read, steered
from agents.trainer.update.training import TrainerContext, run_update
from corpus.aliases import Message
from corpus.behaviour import SHIPPED, Behaviour, load
from corpus.recipe import MODEL_DIR
from corpus.world import answers, ordinary
from corpus.world.checks import KIND_OF
from corpus.world.concepts import CONCEPTS, probe_texts, texts
from corpus.world.requests import draw, reserved, write
from store.checkpoints.store import CheckpointStore

ROWS, TOKENS = 128, 48
"""Answers in a batch, and the most tokens of one."""


class Embedded:
    """The embedded model on shared weights of its own, as shipped."""

    def __init__(self, directory: Path, *, layer: int) -> None:
        """Read concepts after the layer `layer`."""
        transformers.utils.logging.disable_progress_bar()
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
        shipped = transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
        place = directory / "weights.bin"
        named = dict(shipped.named_parameters(remove_duplicate=False))
        shared = SharedWeights.create(place, named, model=str(MODEL_DIR))
        self.store = CheckpointStore(directory / "checkpoints")
        self.first = self.store.write(raw_weights(shared), None, {}).id
        shared.holds = self.first
        self.bench = TrainerContext(shared=shared, model=views.build(shared, MODEL_DIR), store=self.store)
        self.text, self.layer = ChatTokenizer(tokenizer), layer
        ends = end_ids(self.bench.model, tokenizer, self.text.turn_end)
        self._sampler = Sampler(forward_for(self.bench.model), self.text.decode, ends)
        self.behaviours: dict[str, Behaviour] = load([SHIPPED])
        stream = self.stream([text for concept in CONCEPTS for text in texts(concept)])
        self.vectors = concept_vectors(stream, [c for c in CONCEPTS for _ in texts(c)], CONCEPTS)
        self._before = scores(self.stream(probe_texts()), self.vectors)

    def stream(self, texts: Sequence[str]) -> Array:
        """Return the residual stream at each text's last token, `(n_texts, hidden_size)`."""
        rows = [self.text.encode(text) for text in texts]
        residuals: Array = read(self.bench.model, rows, [self.layer], []).stream[:, 0].double().numpy()
        return residuals

    def answers(
        self, talks: Sequence[list[Message]], seeds: Sequence[int], offsets: Offsets | None = None
    ) -> list[str]:
        """Return one answer to each conversation, at a temperature of 1."""
        asks = [
            GenerationRequest(
                tokens=self.text.encode_chat(talk),
                seed=seed,
                temperature=1.0,
                max_tokens=TOKENS,
                offsets=offsets,
            )
            for talk, seed in zip(talks, seeds, strict=True)
        ]
        parts = [self._sampler.generate(asks[first : first + ROWS]) for first in range(0, len(asks), ROWS)]
        return [answer.text.strip() for part in parts for answer in part]

    def outcomes(self, name: str, count: int, offsets: Offsets | None = None) -> str:
        """Return the behaviour's outcomes on its held-out scenarios, a character each: 1 passed, 0 failed."""
        behaviour = self.behaviours[name]
        talks = held_out(behaviour, count)
        answered = self.answers(talks, sampling_seeds(behaviour, len(talks), seed=0, attempt=0), offsets)
        return "".join(
            "01"[judge(behaviour, talk, text).passed] for talk, text in zip(talks, answered, strict=True)
        )

    def pairs(self, name: str, dreams: int, each: int = 6) -> list[Example]:
        """Return pairs of the model's own answers to requests that are not held out, as a night makes them.

        Rejected: its first answer that failed; chosen: its first that passed, else the one that the world
        would give.
        """
        rng, kind = random.Random(f"pairs {name}"), KIND_OF[self.behaviours[name].judge.check]
        pairs: list[Example] = []
        while len(pairs) < dreams:
            request = draw(kind, rng)
            if reserved(request):
                continue
            talk = [{"role": "user", "content": write(request, rng)}]
            texts = self.answers([talk] * each, [rng.getrandbits(48) for _ in range(each)])
            passed = [judge(self.behaviours[name], talk, text).passed for text in texts]
            if all(passed):
                continue
            chosen = texts[passed.index(True)] if any(passed) else answers.good(request, rng)
            pairs.append(self._example(talk, chosen, texts[passed.index(False)]))
        return pairs

    def pairs_of(self, home: Path, name: str) -> list[Example]:
        """Return the pairs of a behaviour in a home's ledger, as an update gets them."""
        ledger = sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True)
        query = "select messages, chosen, rejected, trust from pairs where behaviour = ? order by id"
        rows = ledger.execute(query, (name,)).fetchall()
        ledger.close()
        return [
            replace(self._example(json.loads(messages), chosen, rejected), weight=trust)
            for messages, chosen, rejected, trust in rows
        ]

    def _example(self, talk: list[Message], chosen: str, rejected: str) -> Example:
        context = self.text.encode_chat(talk)
        sides = [
            self.text.encode_chat(
                [*talk, {"role": "assistant", "content": answer}], add_generation_prompt=False
            )[len(context) :]
            for answer in (chosen, rejected)
        ]
        return Example(context=context, chosen=sides[0], rejected=sides[1])

    def train(
        self, pairs: Sequence[Example], settings: Settings, seed: int, prevent: Sequence[Direction] = ()
    ) -> None:
        """Run one update from the shipped weights."""
        request = TrainRequest(
            objective="orpo", settings=settings, seed=seed, parent=self.first, examples=pairs, prevent=prevent
        )
        run_update(self.bench, request, lambda _: None, lambda: None)

    def drift(self) -> dict[str, float]:
        """Return each concept's move over the probe set, in standard deviations of the readings before."""
        after = scores(self.stream(probe_texts()), self.vectors)
        moved = (after.mean(axis=0) - self._before.mean(axis=0)) / self._before.std(axis=0)
        return dict(zip(CONCEPTS, moved.tolist(), strict=True))

    def perplexity(self, steer: Sequence[Direction] = ()) -> float:
        """Return the perplexity of held-out ordinary talk, with or without steering."""
        items = []
        for remark, reply in ordinary.held_out(ROWS):
            context = self.text.encode_chat([{"role": "user", "content": remark}])
            whole = self.text.encode_chat(
                [{"role": "user", "content": remark}, {"role": "assistant", "content": reply}],
                add_generation_prompt=False,
            )
            items.append((context, whole[len(context) :]))
        with steered(self.bench.model, steer):
            (score,) = prefix_scoring.scores(
                self.bench.model, [c for c, _ in items], [[a for _, a in items]], train=False
            )
        return float(torch.exp(-score.total.sum() / score.tokens.sum()))

    def along(self, vector: Array, strength: float) -> Direction:
        """Return a direction of this strength after the layer where concepts are read."""
        moved = strength * vector / np.linalg.norm(vector)
        return Direction(layer=self.layer, data=moved.astype(np.float32).tobytes())


def command(home: Path, *arguments: str) -> dict[str, Any]:
    """Run the command line on this home; return its JSON."""
    plain = {name: value for name, value in os.environ.items() if not name.upper().startswith("NIGHTSCHOOL_")}
    call = [
        sys.executable,
        "-c",
        "from loop.cli.app import main; main()",
        "--home",
        str(home),
        *arguments,
        "--json",
    ]
    done = subprocess.run(call, capture_output=True, text=True, env=plain, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def observed(home: Path, seed: int) -> Path:
    """Make a home with the bundled conversations and a night that dreamt of them without training."""
    command(home, "init", "--demo")
    set_training(home, enabled=False)
    command(home, "night", "--seed", str(seed))
    return home


def set_training(home: Path, *, enabled: bool) -> None:
    """Set whether a home trains or only observes."""
    (home / "config.toml").write_text(f"[training]\nenabled = {str(enabled).lower()}\n")
