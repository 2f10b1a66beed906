"""The dreams of one behaviour: the model writes requests in rounds until enough of them pass the filters.

The model writes in each round as many requests as are missing, divided by the yield so far. The first rounds
of a new model compare the forms of prompts; their requests are used too. Every request that was written
becomes a dream of the ledger, a refused one with its reason.

Invariant: the seed of every draw depends only on the night, the behaviour, the round and the draw's index.
This module reads and writes no ledger, and does not know how attempts are judged.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field

from agents.dreamer import filters
from agents.dreamer.forms import FORMS, NEEDS_CONTEXT
from agents.dreamer.novelty import DIFFERENT, HELD_OUT, NEAR, NoveltyFilter
from agents.dreamer.plan import DECLARED, RECIPE, Draft, DreamOrigin, DreamPlan, draft, draft_recipe, form_of
from agents.dreamer.realism import Realism, opening_of_request
from agents.dreamer.yields import Counted, Yields, to_ask
from agents.model import meter
from agents.model.client import ModelClient
from corpus.aliases import Message
from corpus.behaviour import Behaviour
from store.ledger.records import Dream, Night, identity, seed_of


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
    realism: bool = True
    """Whether dreams of a model that is not the shipped one must be about as likely as real requests are.
    This costs a pass of the model over each dream."""


class SituationRules(Protocol):
    """The rules by which the dreamer checks a situation; the evaluator provides them."""

    def applies(self, behaviour: Behaviour, messages: Sequence[Message]) -> bool:
        """Return whether the conversation tests the behaviour."""

    def is_reserved(self, messages: Sequence[Message]) -> bool:
        """Return whether the conversation is reserved for measurements."""

    def held_out(self, behaviour: Behaviour) -> Iterable[str]:
        """Return the behaviour's declared requests that are reserved for measurements."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """The texts that a dream must differ from."""

    seen: NoveltyFilter
    """Dreams of all nights and, unless the model is the shipped one, the requests they grow from."""
    held_out: NoveltyFilter
    """Requests that are kept for measuring."""

    @classmethod
    def of(cls, dreamt: Iterable[str], held_out: Iterable[str], *, is_recipe: bool) -> "Known":
        """Return the filters; the shipped model's world has few words, so its texts may be more alike."""
        if is_recipe:
            return cls(seen=NoveltyFilter(dreamt, NEAR), held_out=NoveltyFilter(held_out, NEAR))
        return cls(seen=NoveltyFilter(dreamt, DIFFERENT), held_out=NoveltyFilter(held_out, HELD_OUT))


@dataclass(kw_only=True)
class Rounds:
    """The writing of one night's dreams with one model."""

    model: ModelClient
    situations: SituationRules
    settings: DreamSettings
    night: Night
    known: Known
    is_recipe: bool
    """Whether the model is the shipped one, which has a form of its own."""
    realism: Realism | None
    """The score of requests; None for no such filter."""
    tokens: int | None = None
    """Number of generated tokens at which no more dreams are asked for; None for no limit."""
    yields: Yields = field(default_factory=Yields)
    """The counts so far; they grow with each round."""

    async def dream(self, plan: DreamPlan) -> list[Dream]:
        """Have requests written until the plan has enough usable dreams, and return all dreams."""
        dreams: list[Dream] = []
        used: Counter[str] = Counter()
        if not self.is_recipe:
            for origin in plan.origins:
                self.known.seen.add(origin.text)
        forms = await self._forms(plan)
        band = await self._band(plan)
        for round_ in range(self.settings.rounds):
            missing = plan.count - used.total()
            if missing <= 0:
                break
            drafts = self._drafts(plan, forms, round_, missing)
            if self.tokens is not None:
                drafts = drafts[: max(0, self.tokens - meter.generated()) // self.settings.max_tokens]
            if not drafts:
                break
            replies = await self.model.batch_chat([one.prompt for one in drafts])
            texts = [one.asked.request(reply.text) for one, reply in zip(drafts, replies, strict=True)]
            cut = [reply.finish_reason == "length" for reply in replies]
            reasons = await self._reasons(plan, drafts, texts, cut, band)
            new = []
            for one, text, reason in zip(drafts, texts, reasons, strict=True):
                dream = self._dream(plan, one, text, self._final(plan, one, reason, used))
                new.append(dream)
                if dream.refused is None:
                    used[dream.source] += 1
            dreams += new
            if not self.is_recipe:
                plan = replace(plan, written=(*plan.written, *_as_origins(new)))
            self.yields = self.yields.plus(counted(new, self.night.number))
        return dreams

    async def _forms(self, plan: DreamPlan) -> list[str]:
        """Return the forms that this plan and this model allow."""
        if self.is_recipe:
            return [RECIPE]
        forms = [form for form in FORMS if plan.has_context or form not in NEEDS_CONTEXT]
        if await opening_of_request(self.model) is None:
            return [form for form in forms if form not in ("next_turn", "in_context")]
        return forms

    async def _band(self, plan: DreamPlan) -> filters.Band | None:
        """Return the band of log-probabilities of the plan's real requests; None for no such filter."""
        if self.realism is None:
            return None
        real = [one.text for one in (*plan.examples, *plan.episodes) if filters.has_length(one.text)]
        return filters.band(await self.realism.scores(real) or [])

    def _drafts(self, plan: DreamPlan, forms: Sequence[str], round_: int, missing: int) -> list[Draft]:
        """Return the drafts of one round: a comparison of forms, or as many as are missing in the best."""
        name = plan.behaviour.name
        if self.is_recipe:
            chosen = [RECIPE] * to_ask(missing, self.yields.rate(RECIPE, name))
        elif trials := self.yields.trials(forms, name, self.night.number):
            chosen = [form for form, count in trials.items() for _ in range(count)]
        else:
            best = self.yields.best([form for form in forms if form not in NEEDS_CONTEXT], name)
            chosen = [best] * to_ask(missing, self.yields.rate(best, name))
        rates = {form: self.yields.rate(form, name) for form in forms}
        drafts = []
        for index, form in enumerate(chosen):
            seed = seed_of(self.night.seed, "dream", self.night.id, name, round_, index)
            if self.is_recipe:
                drafts.append(draft_recipe(plan, seed, self.settings.max_tokens))
            else:
                own = form if trials else form_of(form, rates, plan, seed)
                drafts.append(draft(plan, own, seed, self.settings.max_tokens))
        return drafts

    async def _reasons(
        self,
        plan: DreamPlan,
        drafts: Sequence[Draft],
        texts: Sequence[str],
        cut: Sequence[bool],
        band: filters.Band | None,
    ) -> list[str | None]:
        """Return for each draft why its request is refused; None for one that passes all filters.

        Args:
            plan: The plan that the drafts belong to.
            drafts: The drafts.
            texts: The request that the model wrote for each.
            cut: Whether each was cut off at the limit of tokens.
            band: The band of the plan's real requests.
        """
        reasons: list[str | None] = []
        for one, text, is_cut in zip(drafts, texts, cut, strict=True):
            reason = self._reason(plan.behaviour, one, text, is_cut)
            reasons.append(reason)
            if reason is None:
                self.known.seen.add(text)
        passed = [index for index, reason in enumerate(reasons) if reason is None]
        if self.realism is None or band is None or not passed:
            return reasons
        scores = await self.realism.scores([texts[index] for index in passed]) or []
        for index, score in zip(passed, scores, strict=False):
            reasons[index] = band.reason(score)
        return reasons

    def _reason(self, behaviour: Behaviour, one: Draft, text: str, is_cut: bool) -> str | None:
        """Return why a request is refused by what it says; the filters run in the order of their cost."""
        messages: list[Message] = [*one.context, {"role": "user", "content": text}]
        if not filters.has_length(text):
            return filters.not_a_situation(behaviour.name)
        if not self.is_recipe:
            if is_cut:
                return filters.CUT_OFF
            if filters.is_foreign(text, filters.scripts(origin.text for origin in one.origins)):
                return filters.OTHER_SCRIPT
        if not self.situations.applies(behaviour, messages):
            return filters.not_a_situation(behaviour.name)
        if self.situations.is_reserved(messages):
            return filters.RESERVED
        if self.known.seen.near(text):
            return filters.SEEN
        return filters.NEAR_HELD_OUT if self.known.held_out.near(text) else None

    def _final(self, plan: DreamPlan, one: Draft, reason: str | None, used: Counter[str]) -> str | None:
        """Return why a request is refused, with the limits of the plan; None if it becomes a dream."""
        source, cap = one.origins[0].source, self.settings.per_source
        if used.total() >= plan.count:
            return filters.ENOUGH
        return (
            filters.over_cap(cap) if reason is None and source != DECLARED and used[source] >= cap else reason
        )

    def _dream(self, plan: DreamPlan, one: Draft, text: str, refused: str | None) -> Dream:
        """Return the dream that the model wrote for a draft."""
        return Dream(
            id="d"
            + identity(self.night.id, plan.behaviour.name, one.prompt.seed, text, *one.context, *one.tools),
            night_id=self.night.id,
            behaviour=plan.behaviour.name,
            messages=[*one.context, {"role": "user", "content": text}],
            tools=list(one.tools),
            temperature=one.prompt.temperature,
            seed=one.prompt.seed,
            nodes=sorted({node for origin in one.origins for node in origin.nodes}),
            source=one.origins[0].source,
            form=one.form,
            refused=refused,
        )


def _as_origins(dreams: Iterable[Dream]) -> list[DreamOrigin]:
    """Return the dreams in use as origins; without their context, which is that of their own origin."""
    return [
        DreamOrigin(text=dream.messages[-1]["content"], nodes=tuple(dream.nodes), source=dream.source)
        for dream in dreams
        if dream.refused is None
    ]


def counted(dreams: Iterable[Dream], night: int) -> list[Counted]:
    """Return how many of these dreams were written and used, by behaviour and form, in night `night`."""
    written: Counter[tuple[str, str]] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    for dream in dreams:
        key = (dream.behaviour, dream.form)
        written[key] += filters.counts_against(dream.refused)
        used[key] += dream.refused is None
    return [
        Counted(night=night, behaviour=behaviour, form=form, written=count, used=used[behaviour, form])
        for (behaviour, form), count in sorted(written.items())
    ]
