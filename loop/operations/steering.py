"""Trying a behaviour before it is trained: sweeps of a concept, and behaviours' own vectors with what they foretell.

Invariant: the weights are not touched; every sweep and every prediction is a row before it is told. Strength 0 is what
`behaviours measure` with this seed gives. Knows neither the command line nor how a verdict is come to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.model.describe import count_layers
from agents.model.steering.concept_vectors import ConceptVectors, read
from agents.model.steering.directions import digest, load_known, require_concept, to_directions
from agents.model.steering.wire import check_strengths
from agents.readout.behaviour_vectors import BehaviourReader, JudgedAnswer
from corpus.aliases import Json
from corpus.behaviour import Behaviour
from corpus.errors import GateRefused, UsageError
from corpus.world.concepts import behaviour_of, probe_texts
from loop.engine.service import Service
from loop.night.measure import measure_round
from loop.operations.sweep import Found, Swept, compared, judged
from store import queries
from store.ledger.db import now
from store.ledger.records import identity
from store.readings import sweeps
from store.readings.records import Prediction, Sweep

SHARES = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
"""Strengths of a sweep when none are given, as shares of the stream's usual length at the layer that is steered."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """Sweeps and predictions on one service."""

    service: Service

    async def sweep(
        self, concept: str, behaviours: Sequence[str], strengths: Sequence[float] | None, *, seed: int
    ) -> list[Json]:
        """The concept at these strengths on each behaviour: those named, else those that belong to it."""
        await self._may_begin()
        vectors = require_concept(concept, load_known(self._directory))
        chosen = self._behaviours(concept, behaviours)
        wanted = _strengths(concept, strengths) if strengths else await self._usual(vectors)
        return [self._told(*await self._swept(concept, name, wanted, seed)) for name in chosen]

    async def behaviour(self, name: str, *, seed: int) -> Json:
        """The behaviour's vector from its dreams, whether steering by it changes the pass rate, and the prediction."""
        await self._may_begin()
        self._require(name)
        ledger = self.service.ledger
        rows = await ledger.read(sweeps.attempts_of, name)
        tried = [
            JudgedAnswer(dream_id=row.dream_id, messages=row.messages, text=row.text, passed=row.passed)
            for row in rows
        ]
        vectors, active = await self._extract(name, tried), await ledger.read(queries.active)
        sweep, found = await self._swept(name, name, await self._usual(vectors), seed)
        prediction = Prediction(
            id="f" + identity(sweep.id, active.id),
            behaviour=name,
            sweep_id=sweep.id,
            checkpoint_id=active.id,
            said=sweep.verdict,
            reason="; ".join(sweep.reasons),
            at=now(),
        )
        await ledger.write(sweeps.add, sweep, prediction)
        told = await ledger.read(sweeps.predictions_of, name)
        return {
            "behaviour": name,
            "attempts": len(tried),
            "dreams": len({one.dream_id for one in tried}),
            "layer": vectors.layers[vectors.steered],
            "sweep": self._told(sweep, found),
            "prediction": sweep.verdict,
            "predictions": [compared(row) for row in told],
        }

    @property
    def _directory(self) -> Any:
        return self.service.context.monitor.directory

    async def _may_begin(self) -> None:
        """Refuse where the weights would move meanwhile, or where many answers cannot be steered."""
        if await self.service.ledger.read(queries.running_night) is not None:
            raise GateRefused("a night is running, and the weights move: wait for it (`nightschool status`)")
        if not self.service.processes.server.managed:
            raise GateRefused(
                "a sweep needs the embedded server; on your own vLLM try single answers with `nightschool ask --steer`"
            )
        await self.service.processes.wait_ready()

    def _require(self, name: str) -> Behaviour:
        if name not in self.service.behaviours:
            raise UsageError(
                f"there is no behaviour {name!r}; there are {', '.join(sorted(self.service.behaviours))}"
            )
        return self.service.behaviours[name]

    def _behaviours(self, concept: str, wanted: Sequence[str]) -> list[str]:
        belongs = concept if concept in self.service.behaviours else behaviour_of(concept)
        if not wanted and belongs is None:
            raise UsageError(
                f"which behaviour belongs to {concept!r} is not known: name one with --behaviour"
            )
        chosen = list(wanted) or [str(belongs)]
        for name in chosen:
            self._require(name)
        return chosen

    async def _usual(self, vectors: ConceptVectors) -> list[float]:
        """Strengths that suit the stream's length, two digits each."""
        layer = vectors.layers[vectors.steered]
        texts = await self.service.model.tokenize_texts(probe_texts())
        found = await self.service.trainer.activations(texts, layers=(layer,))
        stream = np.frombuffer(found.data, dtype=np.float32).reshape(found.texts, found.hidden)
        length = float(np.linalg.norm(stream, axis=1).mean())
        return [float(f"{share * length:.2g}") for share in SHARES]

    async def _extract(self, name: str, tried: Sequence[JudgedAnswer]) -> ConceptVectors:
        """The behaviour's vector, unless a concept has its name and would be steered by in its place."""
        concepts = read(self._directory)
        if concepts is not None and name in concepts.concepts:
            raise UsageError(
                f"a concept is called {name!r} too: give the behaviour another name to steer by it"
            )
        reader = BehaviourReader(
            model=self.service.model,
            trainer=self.service.trainer,
            directory=self._directory,
            digest=self.service.context.monitor.model_digest,
        )
        active = await self.service.ledger.read(queries.active)
        layers = count_layers(self.service.processes.server.model_dir)
        return await reader.extract(name, tried, layers=layers, weights_sha256=active.weights_sha256)

    async def _swept(
        self, concept: str, name: str, strengths: Sequence[float], seed: int
    ) -> tuple[Sweep, Found]:
        """One behaviour at all strengths, kept."""
        service, swept = self.service, []
        active = await service.ledger.read(queries.active)
        definition = service.context.definitions[name]
        for strength in sorted({0.0, *strengths}):
            swept.append(await self._at(concept, name, strength, seed, active.weights_sha256))
        found = judged(swept)
        moved = to_directions({concept: 1.0}, self._directory)
        figures = [[one.strength, one.outcomes] for one in swept]
        sweep = Sweep(
            id="s" + identity(digest(moved), name, definition, active.weights_sha256, seed, figures),
            concept=concept,
            vectors=digest(moved),
            layer=moved[0].layer,
            behaviour=name,
            definition=definition,
            weights_sha256=active.weights_sha256,
            seed=seed,
            strengths=[one.strength for one in swept],
            outcomes=[one.outcomes for one in swept],
            perplexities=[one.perplexity for one in swept],
            verdict=found.verdict,
            slope=found.slope,
            reasons=found.reasons,
            at=now(),
        )
        await service.ledger.write(sweeps.add, sweep)
        return sweep, found

    async def _at(self, concept: str, name: str, strength: float, seed: int, weights: str) -> Swept:
        """The behaviour at one strength."""
        service, steer = self.service, {concept: strength}
        report = service.worker.reporter("measure", f"{name} at {strength:+g}" if strength else name)
        if strength:
            outcomes = await service.context.evaluator.measure(
                service.behaviours[name],
                count=service.settings.verdict.scenarios,
                seed=seed,
                round_=0,
                report=report,
                steer=steer,
            )
        else:
            row = await measure_round(
                service.context, name, seed=seed, round_=0, weights_sha256=weights, report=report
            )
            outcomes = row.outcomes
        perplexity = await service.context.monitor.perplexity(to_directions(steer, self._directory))
        return Swept(strength=strength, outcomes=outcomes, perplexity=perplexity)

    def _told(self, sweep: Sweep, found: Found) -> Json:
        keys = ("id", "concept", "layer", "behaviour", "weights_sha256", "verdict", "slope", "reasons")
        return {**{key: getattr(sweep, key) for key in keys}, "strengths": found.rows}


def _strengths(concept: str, given: Sequence[float]) -> list[float]:
    """The strengths, each one that a request may have."""
    for strength in given:
        check_strengths({concept: strength}, [concept])
    return [float(strength) for strength in given]
