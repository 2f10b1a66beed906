"""The dreamer: it makes new situations for the behaviours that fail most often, from the memory graph.

A dream is a conversation that ends with a user's request which the served model has written. If the lesson
that it grows from had a context (a system prompt, earlier turns, tools), the dream has the same. It is used
if it tests its behaviour, is new, is not reserved for measurements and does not exceed the cap of its source.
Otherwise it is stored with the reason why it was refused.

Invariant: a behaviour never gets dreams without its counter-behaviour. This module does not know how attempts
are judged.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from agents.dreamer.filters import counts_against
from agents.dreamer.plan import DECLARED, DreamOrigin, DreamPlan
from agents.dreamer.realism import Realism, Scorer
from agents.dreamer.rounds import DreamSettings, Known, Rounds, SituationRules, counted
from agents.dreamer.temperature import FailureRate, shares
from agents.dreamer.yields import Counted, Yields
from agents.model import meter
from agents.model.client import ModelClient
from agents.model.context import ContextSettings, Talk, fit, room
from corpus.aliases import Json, Message, Progress
from corpus.behaviour import Behaviour, sides
from corpus.context import opening
from store import graph, queries
from store.ledger.db import Ledger
from store.ledger.records import Dream, Night, identity
from store.queue.outcome import Outcome
from store.queue.work import Work

MIN_WEIGHT = 0.01
"""Smallest weight of an episode in a draw. It applies to episodes whose evidence was forgotten."""
DREAMS_SHARE = 1 / 3
"""Largest share of the tokens that are left to a night that the dreams of one behaviour may cost."""


@dataclass(frozen=True, kw_only=True)
class Dreamer:
    """The handler of work of kind `dream`. The subject of such work is a behaviour's name."""

    ledger: Ledger
    model: ModelClient
    behaviours: dict[str, Behaviour]
    situations: SituationRules
    settings: DreamSettings
    is_recipe: bool = True
    """Whether the model is the shipped one, whose recipe trains it on the prompts that ask for dreams."""
    scorer: Scorer | None = None
    """What computes log-probabilities, for the filter of unlikely requests; None for no such filter."""
    context: ContextSettings = field(default_factory=ContextSettings)
    tokens_left: Callable[[str], Awaitable[int | None]] | None = None
    """Takes a night's id, and returns the tokens that it may still generate; None: any number. Dreams take at
    most DREAMS_SHARE of them, because a dream without attempts is worth nothing."""
    others: int = 128
    """Number of tokens that an attempt adds to a dream: an instruction, and the answer."""

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Make the dreams for the behaviour of a work item and for its counter-behaviour.

        If the subject is a counter-behaviour, dreams are made for it alone.

        Returns:
            The outcome of the work: all dreams, used and refused, and how many there are of each.
        """
        dreamt = sides(item.subject, self.behaviours)
        night, plans, dreamt_before, yields = await self.ledger.read(self._prepare, item.night_id, dreamt)
        plans = [await self._with_contexts(plan) for plan in plans]
        held_out = [text for side in dreamt for text in self.situations.held_out(side)]
        judged = None if self.is_recipe or not self.settings.realism else self.scorer
        left = None if self.tokens_left is None else await self.tokens_left(item.night_id)
        rounds = Rounds(
            tokens=None if left is None else meter.generated() + int(DREAMS_SHARE * left),
            model=self.model,
            situations=self.situations,
            settings=self.settings,
            night=night,
            known=Known.of(dreamt_before, held_out, is_recipe=self.is_recipe),
            is_recipe=self.is_recipe,
            realism=None if judged is None else Realism(model=self.model, scorer=judged),
            yields=yields,
        )
        dreams: list[Dream] = []
        for index, plan in enumerate(plans):
            await report(index, len(plans))
            dreams += await rounds.dream(plan)
        await report(len(plans), len(plans))
        return Outcome(records=tuple(dreams), facts=_facts(dreams))

    def _prepare(
        self, connection: Connection, night_id: str, dreamt: tuple[Behaviour, ...]
    ) -> tuple[Night, list[DreamPlan], list[str], Yields]:
        """Return the night, a plan for each behaviour, all dreams used so far, and the forms' yields."""
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
        return night, plans, queries.dreamt_texts(connection), _yields(connection)

    async def _with_contexts(self, plan: DreamPlan) -> DreamPlan:
        """Return the plan, with the contexts of its origins cut to what the model takes.

        An origin whose context cannot be cut to that length gives dreams without one.
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


def _facts(dreams: Sequence[Dream]) -> Json:
    """Return the figures of the work's event: dreams by behaviour, refusals by reason, yields by form."""
    used = Counter(dream.behaviour for dream in dreams if dream.refused is None)
    return {
        "dreams": dict(used),
        "refused": len(dreams) - used.total(),
        "refusals": dict(Counter(dream.refused for dream in dreams if dream.refused is not None)),
        "forms": [
            {"behaviour": one.behaviour, "form": one.form, "written": one.written, "used": one.used}
            for one in counted(dreams, 0)
        ],
    }


def _yields(connection: Connection) -> Yields:
    """Return what each form has yielded in all nights so far."""
    written: Counter[tuple[int, str, str]] = Counter()
    used: Counter[tuple[int, str, str]] = Counter()
    for one in queries.dream_counts(connection):
        key = (one.night, one.behaviour, one.form)
        written[key] += one.count * counts_against(one.refused)
        used[key] += one.count * (one.refused is None)
    return Yields(
        counts=tuple(
            Counted(
                night=night, behaviour=behaviour, form=form, written=count, used=used[night, behaviour, form]
            )
            for (night, behaviour, form), count in sorted(written.items())
        )
    )


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
