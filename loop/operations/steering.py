"""`readout sweep` and `readout behaviour`: measure behaviours while the model is steered, before training.

Invariant: the weights do not change. Every sweep and prediction is saved in the ledger before it is returned.
At strength 0 the pass rate is that of `behaviours measure` with the same seed. `loop.operations.sweep` makes
the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.evaluator.scenarios import extent
from agents.model.describe import count_layers
from agents.model.steering.concept_vectors import ConceptVectors, read
from agents.model.steering.directions import digest, load_known, require_concept, to_directions
from agents.model.steering.wire import check_strengths
from agents.readout.behaviour_vectors import BehaviourReader, JudgedAnswer
from corpus.errors import GateRefused, UsageError
from corpus.world.concepts import behaviour_of, probe_texts
from loop.engine.service import Service
from loop.night.measure import answers, measure_scenarios
from loop.operations.results.readouts import BehaviourVector, SweepResult, Sweeps
from loop.operations.sweep import Judgement, Trial, check_prediction, judge
from loop.verdict.claims import batches
from store import queries
from store.ledger.db import now
from store.ledger.records import identity
from store.readings import sweeps
from store.readings.records import Prediction, Sweep

SHARES = (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75)
"""Default strengths of a sweep, in units of the residual stream's mean norm at the steered layer."""


@dataclass(frozen=True, kw_only=True)
class Steering:
    """The operations that sweep and predict, on one opened service."""

    service: Service

    async def sweep(
        self, concept: str, behaviours: Sequence[str], strengths: Sequence[float] | None, *, seed: int
    ) -> Sweeps:
        """Measure behaviours at several strengths of steering by a concept, and return the verdicts.

        Args:
            concept: The concept, or a behaviour that has a vector.
            behaviours: Names of the behaviours; empty for the one that the concept belongs to.
            strengths: The strengths; None for the default ones.
            seed: The seed of the scenarios.
        """
        await self._require_idle()
        vectors = require_concept(concept, load_known(self._directory))
        names = self._behaviours(concept, behaviours)
        wanted = _require_allowed(concept, strengths) if strengths else await self._default_strengths(vectors)
        results = [await self._sweep(concept, name, wanted, seed) for name in names]
        return Sweeps(concept=concept, sweeps=[_result(sweep, judgement) for sweep, judgement in results])

    async def behaviour(self, name: str, *, seed: int) -> BehaviourVector:
        """Estimate a behaviour's vector, steer by it, and return the recorded prediction for its training."""
        await self._require_idle()
        self._require_behaviour(name)
        ledger = self.service.ledger
        attempts = [
            JudgedAnswer(dream_id=row.dream_id, messages=row.messages, text=row.text, passed=row.passed)
            for row in await ledger.read(sweeps.attempts_of, name)
        ]
        vectors, active = await self._extract(name, attempts), await ledger.read(queries.active)
        sweep, judgement = await self._sweep(name, name, await self._default_strengths(vectors), seed)
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
        predictions = await ledger.read(sweeps.predictions_of, name)
        return BehaviourVector(
            behaviour=name,
            attempts=len(attempts),
            dreams=len({attempt.dream_id for attempt in attempts}),
            layer=vectors.layers[vectors.steered],
            sweep=_result(sweep, judgement),
            prediction=sweep.verdict,
            predictions=[check_prediction(row) for row in predictions],
        )

    @property
    def _directory(self) -> Path:
        return self.service.context.monitor.directory

    async def _require_idle(self) -> None:
        """Raise an error if a night runs, or if the home uses a vLLM, which cannot steer many answers."""
        if await self.service.ledger.read(queries.running_night) is not None:
            raise GateRefused(
                "a night is running, and changes the weights: wait for its end (`nightschool status`)"
            )
        if not self.service.processes.server.managed:
            raise GateRefused(
                "a sweep needs the embedded server; on your own vLLM, try single answers with "
                "`nightschool ask --steer`"
            )
        await self.service.processes.wait_ready()

    def _require_behaviour(self, name: str) -> None:
        if name not in self.service.behaviours:
            raise UsageError(
                f"there is no behaviour {name!r}; there are {', '.join(sorted(self.service.behaviours))}"
            )

    def _behaviours(self, concept: str, wanted: Sequence[str]) -> list[str]:
        """Return the wanted behaviours, or the one that the concept belongs to; refuse unknown names."""
        default = concept if concept in self.service.behaviours else behaviour_of(concept)
        if not wanted and default is None:
            raise UsageError(f"{concept!r} belongs to no known behaviour: name one with --behaviour")
        names = list(wanted) or [str(default)]
        for name in names:
            self._require_behaviour(name)
        return names

    async def _default_strengths(self, vectors: ConceptVectors) -> list[float]:
        """Return SHARES times the residual stream's mean norm at the steered layer, rounded to two digits."""
        layer = vectors.layers[vectors.steered]
        texts = await self.service.model.tokenize_texts(probe_texts())
        activations = await self.service.trainer.activations(texts, layers=(layer,))
        flat = np.frombuffer(activations.data, dtype=np.float32)
        norm = float(np.linalg.norm(flat.reshape(activations.texts, activations.hidden), axis=1).mean())
        return [float(f"{share * norm:.2g}") for share in SHARES]

    async def _extract(self, name: str, attempts: Sequence[JudgedAnswer]) -> ConceptVectors:
        """Estimate a behaviour's vector from judged attempts, store it in the home, and return it.

        Raise an error if a concept has the behaviour's name, because steering would use the concept instead.
        """
        concepts = read(self._directory)
        if concepts is not None and name in concepts.concepts:
            raise UsageError(f"a concept is called {name!r} too: rename the behaviour to steer by it")
        reader = BehaviourReader(
            model=self.service.model,
            trainer=self.service.trainer,
            directory=self._directory,
            digest=self.service.context.monitor.model_digest,
        )
        active = await self.service.ledger.read(queries.active)
        layers = count_layers(self.service.processes.server.model_dir)
        return await reader.extract(name, attempts, layers=layers, weights_sha256=active.weights_sha256)

    async def _sweep(
        self, concept: str, name: str, strengths: Sequence[float], seed: int
    ) -> tuple[Sweep, Judgement]:
        """Measure one behaviour at all strengths and save the sweep; return it with its verdict's figures."""
        service = self.service
        active = await service.ledger.read(queries.active)
        definition, weights = service.context.definitions[name], active.weights_sha256
        trials = [
            await self._try(concept, name, strength, seed, weights) for strength in sorted({0.0, *strengths})
        ]
        judgement = judge(trials)
        directions = to_directions({concept: 1.0}, self._directory)
        figures = [[trial.strength, trial.outcomes] for trial in trials]
        sweep = Sweep(
            id="s" + identity(digest(directions), name, definition, weights, seed, figures),
            concept=concept,
            vectors=digest(directions),
            layer=directions[0].layer,
            behaviour=name,
            definition=definition,
            weights_sha256=weights,
            seed=seed,
            strengths=[trial.strength for trial in trials],
            outcomes=[trial.outcomes for trial in trials],
            perplexities=[trial.perplexity for trial in trials],
            verdict=judgement.verdict,
            slope=judgement.slope,
            reasons=judgement.reasons,
            at=now(),
        )
        await service.ledger.write(sweeps.add, sweep)
        return sweep, judgement

    async def _try(self, concept: str, name: str, strength: float, seed: int, weights: str) -> Trial:
        """Measure a behaviour and the perplexity on ordinary text at one strength of steering.

        Args:
            concept: The concept to steer by.
            name: The behaviour.
            strength: The strength.
            seed: The seed of the scenarios.
            weights: Digest of the served weights.
        """
        service, steer = self.service, {concept: strength}
        context, behaviour = service.context, service.behaviours[name]
        report = service.worker.reporter("measure", f"{name} at {strength:+g}" if strength else name)
        if strength:
            there, outcomes = extent(behaviour, service.settings.verdict.scenarios), ""
            for places in batches(there.scenarios):
                await report(places.start, there.scenarios)
                outcomes += await answers(context, name, places, seed=seed, steer=steer)
            await report(there.scenarios, there.scenarios)
        else:
            taken = await measure_scenarios(context, name, seed=seed, weights_sha256=weights, report=report)
            outcomes = taken.outcomes
        perplexity = await context.monitor.perplexity(to_directions(steer, self._directory))
        return Trial(strength=strength, outcomes=outcomes, perplexity=perplexity)


def _result(sweep: Sweep, judgement: Judgement) -> SweepResult:
    return SweepResult(
        id=sweep.id,
        concept=sweep.concept,
        layer=sweep.layer,
        behaviour=sweep.behaviour,
        weights_sha256=sweep.weights_sha256,
        verdict=sweep.verdict,
        slope=sweep.slope,
        reasons=sweep.reasons,
        strengths=judgement.rows,
    )


def _require_allowed(concept: str, strengths: Sequence[float]) -> list[float]:
    """Return the strengths; raise an error if the server would refuse one of them."""
    for strength in strengths:
        check_strengths({concept: strength}, [concept])
    return [float(strength) for strength in strengths]
