"""The dreamer: it makes new situations for the behaviours that fail most often, from the memory graph.

A dream is a conversation that ends with a user's request which the served model has written. If the lesson
that it grows from had a context (a system prompt, earlier turns, tools), the dream has the same. It is used
if it tests its behaviour, is new, is not reserved for measurements and does not exceed the cap of its source.
Otherwise it is stored with the reason why it was refused.

Invariant: a behaviour never gets dreams without its counter-behaviour. This module does not know how attempts
are judged.
"""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from agents.dreamer.novelty import NoveltyFilter
from agents.dreamer.temperature import FailureRate, shares
from agents.model.client import ModelClient, Prompt
from agents.model.context import ContextSettings, Talk, fit, room
from corpus.aliases import Json, Message, Progress
from corpus.behaviour import Behaviour, sides
from corpus.context import opening
from corpus.prompts import broad_dream, near_dream
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.records import Dream, Night, identity, seed_of
from store.queue.outcome import Outcome
from store.queue.work import Work

DECLARED = ""
"""Source of a dream that was made from the examples in a behaviour's declaration. No log has this source."""
MIN_WEIGHT = 0.01
"""Smallest weight of an episode in a draw. It applies to episodes whose evidence was forgotten."""
MAX_DREAM_CHARACTERS = 400
"""Number of characters above which a dream is refused, because it has lost its subject."""


@dataclass(frozen=True, kw_only=True)
class DreamSettings:
    """The number and the length of dreams."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    per_night: Annotated[int, Field(ge=1, le=100_000)] = 240
    """Number of dreams for all targets of a night together. A target is a behaviour that the night trains."""
    per_behaviour: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Largest number of dreams for one target."""
    guards: Annotated[int, Field(ge=0, le=100_000)] = 40
    """Number of dreams for each counter-behaviour whose behaviour is not a target. They keep the
    counter-behaviour from being unlearnt."""
    counter_share: Annotated[float, Field(ge=0, le=100)] = 1.75
    """Number of dreams for a target's counter-behaviour, per dream of the target. The default is above 1
    because a counter-behaviour rarely fails."""
    per_source: Annotated[int, Field(ge=0)] = 64
    """Largest number of dreams for one behaviour in one night that come from the log of one source (a
    user)."""
    max_tokens: Annotated[int, Field(ge=1, le=4096)] = 48
    """Largest length of a dream, in tokens."""
    rounds: Annotated[int, Field(ge=1, le=100)] = 4
    """Largest number of times that the model is asked for dreams while too few can be used."""


class SituationRules(Protocol):
    """The rules by which the dreamer checks a situation; the evaluator provides them."""

    def applies(self, behaviour: Behaviour, messages: Sequence[Message]) -> bool:
        """Return whether the conversation tests the behaviour."""

    def is_reserved(self, messages: Sequence[Message]) -> bool:
        """Return whether the conversation is reserved for measurements."""

    def held_out(self, behaviour: Behaviour) -> Iterable[str]:
        """Return the behaviour's declared requests that are reserved for measurements."""


@dataclass(frozen=True, kw_only=True)
class DreamOrigin:
    """A request that is shown to the model as a pattern for a new dream."""

    text: str
    """The request."""
    context: tuple[Message, ...] = ()
    """The messages before the request, as the model saw them; () if the request opened its conversation."""
    tools: tuple[Json, ...] = ()
    """Definitions of the tools that the model was offered."""
    nodes: tuple[str, ...]
    """Ids of the graph nodes that the request comes from. A dream stores the nodes of its origins."""
    source: str
    """The source of the log that the request comes from; DECLARED for a declared example."""
    weight: float = 1.0
    """How often this origin is drawn, relative to the others in its list."""


@dataclass(frozen=True, kw_only=True)
class DreamPlan:
    """The number of dreams to make for one behaviour, and the origins to make them from."""

    behaviour: Behaviour
    count: int
    """Number of usable dreams to make."""
    rate: FailureRate
    episodes: list[DreamOrigin]
    """Requests in the behaviour's episodes."""
    examples: list[DreamOrigin]
    """Examples in the behaviour's declaration."""
    hardest: list[DreamOrigin]
    """Earlier dreams whose attempts failed most often."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A prompt that asks the model for a dream, and the origins that the prompt shows."""

    prompt: Prompt
    origins: list[DreamOrigin]


@dataclass(frozen=True, kw_only=True)
class Dreamer:
    """The handler of work of kind `dream`. The subject of such work is a behaviour's name."""

    ledger: Ledger
    model: ModelClient
    behaviours: dict[str, Behaviour]
    situations: SituationRules
    settings: DreamSettings
    context: ContextSettings = field(default_factory=ContextSettings)
    others: int = 128
    """Number of tokens that an attempt adds to a dream: an instruction, and the answer."""

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Make the dreams for the behaviour of a work item and for its counter-behaviour.

        If the subject is a counter-behaviour, dreams are made for it alone.

        Returns:
            The outcome of the work: all dreams, used and refused, and how many there are of each.
        """
        dreamt = sides(item.subject, self.behaviours)
        night, plans, seen = await self.ledger.read(self._prepare, item.night_id, dreamt)
        plans = [await self._with_contexts(plan) for plan in plans]
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
    ) -> tuple[Night, list[DreamPlan], NoveltyFilter]:
        """Return the night, a plan for each behaviour, and a filter with all dreams that were used so far."""
        night = queries.night(connection, night_id)
        rates = {
            name: FailureRate(failed=rate.failed, passed=rate.passed, temperature=rate.temperature)
            for name, rate in queries.rates(connection).items()
        }
        count = self._count(dreamt[0], night.targets, rates)
        plans = [
            DreamPlan(
                behaviour=side,
                count=round(count * self.settings.counter_share) if index else count,
                rate=rates.get(side.name, FailureRate()),
                episodes=_episodes(connection, side),
                examples=[
                    DreamOrigin(text=text, nodes=(_declared(side),), source=DECLARED)
                    for text in side.examples
                ],
                hardest=_hardest(connection, side),
            )
            for index, side in enumerate(dreamt)
        ]
        return night, plans, NoveltyFilter(queries.dreamt_texts(connection))

    async def _with_contexts(self, plan: DreamPlan) -> DreamPlan:
        """Return the plan, with the contexts of its origins cut to what the model takes.

        An origin whose context cannot be cut so gives dreams without a context.
        """
        limit = await room(self.model, self.context, others=self.others + self.settings.max_tokens)
        return replace(
            plan,
            episodes=await fitted(self.model, plan.episodes, limit),
            hardest=await fitted(self.model, plan.hardest, limit),
        )

    def _count(self, behaviour: Behaviour, targets: list[str], rates: dict[str, FailureRate]) -> int:
        """Return the number of dreams for a behaviour.

        A target that fails more often gets more dreams, up to `per_behaviour`. A counter-behaviour gets a
        fixed number.
        """
        if behaviour.counter_of:
            return self.settings.guards
        of_targets = {name: rates.get(name, FailureRate()) for name in targets}
        return min(shares(of_targets, self.settings.per_night)[behaviour.name], self.settings.per_behaviour)

    async def _dream(self, plan: DreamPlan, night: Night, seen: NoveltyFilter) -> list[Dream]:
        """Ask the model in rounds until the plan has enough usable dreams, and return all dreams."""
        dreams: list[Dream] = []
        used: Counter[str] = Counter()
        for round_ in range(self.settings.rounds):
            missing = plan.count - used.total()
            if missing <= 0:
                break
            drafts = self._drafts(plan, night, round_, missing + missing // 4 + 4)
            replies = await self.model.batch_chat([draft.prompt for draft in drafts])
            for draft, reply in zip(drafts, replies, strict=True):
                dream = self._check(plan, night.id, draft, reply.text.strip(), seen, used)
                dreams.append(dream)
                if dream.refused is None:
                    used[dream.source] += 1
                    seen.add(dream.messages[-1]["content"])
        return dreams

    def _drafts(self, plan: DreamPlan, night: Night, round_: int, count: int) -> list[Draft]:
        """Return `count` drafts for one round.

        If the behaviour fails often, most drafts are broad: they show several origins. Otherwise most are
        close to one hard case.
        """
        drafts = []
        for index in range(count):
            seed = seed_of(night.seed, "dream", night.id, plan.behaviour.name, round_, index)
            rng = random.Random(seed)
            near = plan.hardest or plan.episodes
            if near and rng.random() > max(0.25, plan.rate.mean):
                origins = [_draw(near, rng)]
                messages = near_dream(plan.behaviour.condition, origins[0].text)
            else:
                origins = _draw_broadly(plan, rng)
                messages = broad_dream(plan.behaviour.condition, [origin.text for origin in origins])
            prompt = Prompt(
                messages=messages,
                seed=seed,
                temperature=plan.rate.temperature,
                max_tokens=self.settings.max_tokens,
            )
            drafts.append(Draft(prompt=prompt, origins=origins))
        return drafts

    def _check(
        self, plan: DreamPlan, night_id: str, draft: Draft, text: str, seen: NoveltyFilter, used: Counter[str]
    ) -> Dream:
        """Return the dream that the model wrote for a draft, with the reason if it is refused.

        Args:
            plan: The plan that the draft belongs to.
            night_id: The night of the dream.
            draft: The draft.
            text: The dream's text, as the model wrote it.
            seen: The texts that a dream must differ from.
            used: Number of the plan's usable dreams so far, by source.
        """
        first = draft.origins[0]
        messages: list[Message] = [*first.context, {"role": "user", "content": text}]
        behaviour, source = plan.behaviour, first.source
        refused = None
        if used.total() >= plan.count:
            refused = "enough dreams"
        elif not 0 < len(text) <= MAX_DREAM_CHARACTERS or not self.situations.applies(behaviour, messages):
            refused = f"not a situation for {behaviour.name}"
        elif self.situations.is_reserved(messages):
            refused = "kept for measuring"
        elif seen.near(text):
            refused = "seen before"
        elif source != DECLARED and used[source] >= self.settings.per_source:
            refused = f"over the cap of {self.settings.per_source} from one source"
        return Dream(
            id="d"
            + identity(night_id, behaviour.name, draft.prompt.seed, text, *first.context, *first.tools),
            night_id=night_id,
            behaviour=behaviour.name,
            messages=messages,
            tools=list(first.tools),
            temperature=plan.rate.temperature,
            seed=draft.prompt.seed,
            nodes=sorted({node for origin in draft.origins for node in origin.nodes}),
            source=source,
            refused=refused,
        )


def _draw(origins: Sequence[DreamOrigin], rng: random.Random) -> DreamOrigin:
    """Draw one origin with a probability in proportion to its weight, and return it."""
    weights = [origin.weight for origin in origins]
    return rng.choice(origins) if len(set(weights)) == 1 else rng.choices(origins, weights)[0]


def _draw_broadly(plan: DreamPlan, rng: random.Random) -> list[DreamOrigin]:
    """Draw up to three origins and return them: one episode if there is any, then declared examples.

    A behaviour without examples gets more episodes instead.
    """
    first = [_draw(plan.episodes, rng)] if plan.episodes else []
    rest = plan.examples or plan.episodes
    return first + rng.sample(rest, min(len(rest), 3 - len(first)))


def _declared(behaviour: Behaviour) -> str:
    """Return the id of the behaviour's node in the graph."""
    return identity("behaviour", behaviour.name)


def _episodes(connection: Connection, behaviour: Behaviour) -> list[DreamOrigin]:
    """Return an origin for the request in each of the behaviour's episodes, weighted by its priority."""
    return [
        DreamOrigin(
            text=node.body["request"],
            context=_before_request(node.body),
            tools=tuple(node.body.get("tools") or ()),
            nodes=(node.id,),
            source=node.body["source"],
            weight=max(MIN_WEIGHT, graph.priority(node)),
        )
        for node in graph.episodes(connection, behaviour.name)
    ]


def _before_request(body: Json) -> tuple[Message, ...]:
    """Return the messages before an episode's request; if that was cut off, the system prompt alone.

    Episodes of earlier versions have no context.
    """
    messages, at = body.get("context") or [], body.get("request_at")
    return tuple(messages[: opening(messages) if at is None else at])


async def fitted(model: ModelClient, origins: Sequence[DreamOrigin], limit: int) -> list[DreamOrigin]:
    """Return the origins with their contexts cut to `limit` tokens, request and tools included.

    An origin whose context cannot be cut so loses its context and its tools.
    """
    whole = [origin for origin in origins if origin.context or origin.tools]
    talks = [
        Talk(messages=[*one.context, {"role": "user", "content": one.text}], tools=one.tools) for one in whole
    ]
    cut = {
        id(origin): replace(
            origin, context=tuple(found.messages[:-1]), tools=() if found.reason else origin.tools
        )
        for origin, found in zip(whole, await fit(model, talks, [limit] * len(talks)), strict=True)
    }
    return [cut.get(id(origin), origin) for origin in origins]


def _hardest(connection: Connection, behaviour: Behaviour) -> list[DreamOrigin]:
    """Return origins for the twelve dreams of the behaviour whose attempts failed most often."""
    return [
        DreamOrigin(
            text=dream.messages[-1]["content"],
            context=tuple(dream.messages[:-1]),
            tools=tuple(dream.tools),
            nodes=tuple(dream.nodes),
            source=dream.source,
        )
        for dream in queries.hardest_dreams(connection, behaviour.name, 12)
    ]
