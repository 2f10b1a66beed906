"""The dreamer: asks the memory graph what is weakest and dreams fresh situations from it.

Dreams are the served model's own samples; each is then checked: does the behaviour apply, is it new, is it
kept for measuring, is there room under its source's cap. A refused dream is stored with its reason. Invariant:
a behaviour never gets dreams without its counter-behaviour. Does not know how attempts are judged.
"""

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field
from sqlalchemy import Connection

from agents.dreamer.novelty import NoveltyFilter
from agents.dreamer.temperature import FailureRate, shares
from agents.model.client import ModelClient, Prompt
from corpus.aliases import Message
from corpus.behaviour import Behaviour, sides
from corpus.prompts import broad_dream, near_dream
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.records import Dream, identity, seed_of
from store.queue.outcome import Outcome
from store.queue.work import Work

DECLARED = ""
"""Source of a dream that grew from a behaviour's own examples; no log has it, whatever its user is called."""
LEAST = 0.01
"""Weight of an episode that has none left: its evidence was forgotten."""
LONGEST_DREAM = 400
"""Characters; a longer one has run away."""


@dataclass(frozen=True, kw_only=True)
class DreamSettings:
    """How much is dreamt."""

    __pydantic_config__ = {"extra": "forbid"}

    per_night: Annotated[int, Field(ge=1, le=100_000)] = 240
    """Dreams of all the night's targets together."""
    per_behaviour: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Largest number of dreams of one target."""
    guards: Annotated[int, Field(ge=0, le=100_000)] = 40
    """Dreams of each counter-behaviour whose behaviour is not a target, so that it is not lost."""
    counter_share: Annotated[float, Field(ge=0, le=100)] = 1.75
    """Dreams of a target's counter-behaviour for each dream of the target. A counter-behaviour rarely
    fails."""
    per_source: Annotated[int, Field(ge=0)] = 64
    """Largest number of one behaviour's dreams in one night that may grow from one source's log."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 48
    """Length of a dream, in tokens."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 4
    """Number of times that the model is asked again while dreams are missing."""


class Situations(Protocol):
    """What the dreamer needs to know of the evaluator."""

    def applies(self, behaviour: Behaviour, messages: Sequence[Message]) -> bool:
        """Whether the conversation puts the behaviour to the test."""

    def is_reserved(self, messages: Sequence[Message]) -> bool:
        """Whether the conversation is kept for measuring."""

    def held_out(self, behaviour: Behaviour) -> Iterable[str]:
        """Requests that are kept for measuring."""


@dataclass(frozen=True, kw_only=True)
class DreamSeed:
    """A request that a dream may grow from."""

    text: str
    nodes: tuple[str, ...]
    """A dream's are those that it grew from itself: what it came from is never lost on the way."""
    source: str
    weight: float = 1.0
    """How often it is drawn, against the others of its list."""


@dataclass(frozen=True, kw_only=True)
class DreamPlan:
    """What one behaviour is to be dreamt with."""

    behaviour: Behaviour
    count: int
    rate: FailureRate
    episodes: list[DreamSeed]
    examples: list[DreamSeed]
    hardest: list[DreamSeed]


@dataclass(frozen=True, kw_only=True)
class Dreamer:
    """Handles work of kind `dream`; the subject is a behaviour's name."""

    ledger: Ledger
    model: ModelClient
    behaviours: dict[str, Behaviour]
    situations: Situations
    settings: DreamSettings

    async def handle(self, item: Work, report: Callable[[int, int], Awaitable[None]]) -> Outcome:
        """Dream a behaviour and its counter-behaviour, or a guard alone."""
        dreamt = sides(item.subject, self.behaviours)
        night, plans, seen = await self.ledger.read(self._prepare, item.night_id, dreamt)
        for side in dreamt:
            for text in self.situations.held_out(side):
                seen.add(text)
        dreams: list[Dream] = []
        for index, plan in enumerate(plans):
            await report(index, len(plans))
            dreams += await self._dream(plan, night, seen)
        await report(len(plans), len(plans))
        used = Counter(dream.behaviour for dream in dreams if dream.refused is None)
        return Outcome(
            records=tuple(dreams), facts={"dreams": dict(used), "refused": len(dreams) - used.total()}
        )

    def _prepare(
        self, connection: Connection, night_id: str, dreamt: tuple[Behaviour, ...]
    ) -> tuple[queries.Row, list[DreamPlan], NoveltyFilter]:
        night = queries.night(connection, night_id)
        rates = {name: _rate(row) for name, row in queries.rates(connection).items()}
        count = self._count(dreamt[0], night["targets"], rates)
        plans = [
            DreamPlan(
                behaviour=side,
                count=round(count * self.settings.counter_share) if index else count,
                rate=rates.get(side.name, FailureRate()),
                episodes=_episodes(connection, side),
                examples=[
                    DreamSeed(text=text, nodes=(_declared(side),), source=DECLARED) for text in side.examples
                ],
                hardest=_hardest(connection, side),
            )
            for index, side in enumerate(dreamt)
        ]
        return night, plans, NoveltyFilter(queries.dreamt_texts(connection))

    def _count(self, behaviour: Behaviour, targets: list[str], rates: dict[str, FailureRate]) -> int:
        """How many dreams a behaviour gets: what fails most gets most, within bounds."""
        if behaviour.counter_of:
            return self.settings.guards
        of_targets = {name: rates.get(name, FailureRate()) for name in targets}
        return min(shares(of_targets, self.settings.per_night)[behaviour.name], self.settings.per_behaviour)

    async def _dream(self, plan: DreamPlan, night: queries.Row, seen: NoveltyFilter) -> list[Dream]:
        """Ask in rounds until there are enough dreams in use."""
        dreams: list[Dream] = []
        used: Counter[str] = Counter()
        for round_ in range(self.settings.rounds):
            missing = plan.count - used.total()
            if missing <= 0:
                break
            asked = self._prompts(plan, night, round_, missing + missing // 4 + 4)
            replies = await self.model.batch_chat([self._prompt(plan, p, seed) for p, _, seed in asked])
            for (_, seeds, seed), reply in zip(asked, replies, strict=True):
                dream = self._check(plan, night["id"], seeds, seed, reply.text.strip(), seen, used)
                dreams.append(dream)
                if dream.refused is None:
                    used[dream.source] += 1
                    seen.add(dream.messages[-1]["content"])
        return dreams

    def _prompt(self, plan: DreamPlan, messages: list[Message], seed: int) -> Prompt:
        return Prompt(
            messages=messages,
            seed=seed,
            temperature=plan.rate.temperature,
            max_tokens=self.settings.max_tokens,
        )

    def _prompts(
        self, plan: DreamPlan, night: queries.Row, round_: int, count: int
    ) -> list[tuple[list[Message], list[DreamSeed], int]]:
        """The prompts of a round: what fails often is dreamt broadly, the rest close to its hardest cases."""
        prompts = []
        for index in range(count):
            seed = seed_of(night["seed"], "dream", night["id"], plan.behaviour.name, round_, index)
            rng = random.Random(seed)
            near = plan.hardest or plan.episodes
            if near and rng.random() > max(0.25, plan.rate.mean):
                seeds = [_drawn(near, rng)]
                prompt = near_dream(plan.behaviour.condition, seeds[0].text)
            else:
                seeds = _spread(plan, rng)
                prompt = broad_dream(plan.behaviour.condition, [s.text for s in seeds])
            prompts.append((prompt, seeds, seed))
        return prompts

    def _check(
        self,
        plan: DreamPlan,
        night_id: str,
        seeds: list[DreamSeed],
        seed: int,
        text: str,
        seen: NoveltyFilter,
        used: Counter[str],
    ) -> Dream:
        """The dream, with the reason for which it cannot be used, if there is one."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
        source = seeds[0].source
        refused = None
        if used.total() >= plan.count:
            refused = "enough dreams"
        elif not 0 < len(text) <= LONGEST_DREAM or not self.situations.applies(plan.behaviour, messages):
            refused = f"not a situation for {plan.behaviour.name}"
        elif self.situations.is_reserved(messages):
            refused = "kept for measuring"
        elif seen.near(text):
            refused = "seen before"
        elif source != DECLARED and used[source] >= self.settings.per_source:
            refused = f"over the cap of {self.settings.per_source} from one source"
        return Dream(
            id="d" + identity(night_id, plan.behaviour.name, seed, text),
            night_id=night_id,
            behaviour=plan.behaviour.name,
            messages=messages,
            temperature=plan.rate.temperature,
            seed=seed,
            nodes=sorted({node for s in seeds for node in s.nodes}),
            source=source,
            refused=refused,
        )


def _drawn(seeds: Sequence[DreamSeed], rng: random.Random) -> DreamSeed:
    """One of these, the pressing ones more often."""
    weights = [seed.weight for seed in seeds]
    return rng.choice(seeds) if len(set(weights)) == 1 else rng.choices(seeds, weights)[0]


def _spread(plan: DreamPlan, rng: random.Random) -> list[DreamSeed]:
    """Seeds across the graph: an episode first where there is one, then what the behaviour declares."""
    first = [_drawn(plan.episodes, rng)] if plan.episodes else []
    rest = plan.examples or plan.episodes
    return first + rng.sample(rest, min(len(rest), 3 - len(first)))


def _rate(row: queries.Row) -> FailureRate:
    return FailureRate(failed=row["failed"], passed=row["passed"], temperature=row["temperature"])


def _declared(behaviour: Behaviour) -> str:
    """Id of the behaviour's own node."""
    return identity("behaviour", behaviour.name)


def _episodes(connection: Connection, behaviour: Behaviour) -> list[DreamSeed]:
    return [
        DreamSeed(
            text=node.body["request"],
            nodes=(node.id,),
            source=node.body["source"],
            weight=max(LEAST, graph.priority(node)),
        )
        for node in graph.episodes(connection, behaviour.name)
    ]


def _hardest(connection: Connection, behaviour: Behaviour) -> list[DreamSeed]:
    rows = queries.hardest_dreams(connection, behaviour.name, 12)
    return [
        DreamSeed(text=row["messages"][-1]["content"], nodes=tuple(row["nodes"]), source=row["source"])
        for row in rows
    ]
