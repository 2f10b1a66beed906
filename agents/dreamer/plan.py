"""The prompts of a behaviour's dreams: which requests they show, how many, and in which form.

Invariant: pure. A draft depends only on the plan, the form and its seed. A prompt shows requests of the graph
and of the behaviour's declaration only, and its draft names them all, so that every dream can be traced.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from agents.dreamer.filters import MAX_CHARACTERS
from agents.dreamer.forms import FORMS, NEEDS_CONTEXT, Asked, Material
from agents.dreamer.temperature import FailureRate, breadth, foreign
from agents.model.client import Prompt
from corpus.aliases import Json, Message
from corpus.behaviour import Behaviour
from corpus.context import opening
from corpus.prompts import broad_dream, near_dream
from corpus.text import jaccard, word_set

DECLARED = ""
"""Source of a dream that was made from the examples in a behaviour's declaration. No log has this source."""
RECIPE = "recipe"
"""The form of the shipped model, whose recipe trains it on these prompts (`corpus.prompts`)."""
MIN_P = 0.1
"""Share of the likeliest token's probability that a dream's token needs, but for the shipped model."""
NEAR_SHARE = 0.25
"""Share of broad drafts when a behaviour hardly ever fails."""
WHOLE_CONTEXT = 0.5
"""Share of the dreams that keep the whole context of the request they grow from; the others put the lesson
at the beginning of a conversation, and keep the system prompt alone."""
GOOD_ENOUGH = 0.5
"""Share of the best form's yield from which dreams are written in their context."""


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
    written: tuple[DreamOrigin, ...] = ()
    """Dreams of this night so far, which widen what the next ones grow from."""

    @property
    def origins(self) -> list[DreamOrigin]:
        """All origins, each text once; a text that is too long for a dream is left out if others are left."""
        each = {one.text: one for one in (*self.written, *self.hardest, *self.examples, *self.episodes)}
        return [one for text, one in each.items() if len(text) <= MAX_CHARACTERS] or list(each.values())

    @property
    def has_context(self) -> bool:
        """Whether a request of the plan came after other turns."""
        return any(map(has_turns, self.origins))


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A prompt that asks the model for a dream, and the origins that the prompt shows."""

    prompt: Prompt
    origins: list[DreamOrigin]
    """The first one gives the dream its source."""
    form: str
    asked: Asked
    context: tuple[Message, ...]
    """The messages of the dream before its request."""

    @property
    def tools(self) -> tuple[Json, ...]:
        """Definitions of the dream's tools: those of the request that it grew from."""
        return self.origins[0].tools


def draft_recipe(plan: DreamPlan, seed: int, max_tokens: int) -> Draft:
    """Return a draft in the shipped model's own form.

    If the behaviour fails often, most drafts are broad: they show several origins. Otherwise most are close
    to one hard case. The dream begins its conversation: the recipe trains the model on single requests, and
    behind an exchange about something else it follows an instruction in 58 of 96 answers, not in 95.
    """
    rng = random.Random(seed)
    near = plan.hardest or plan.episodes
    if near and rng.random() > max(NEAR_SHARE, plan.rate.mean):
        origins = [_draw(near, rng)]
        messages = near_dream(plan.behaviour.condition, origins[0].text)
    else:
        origins = _draw_broadly(plan, rng)
        messages = broad_dream(plan.behaviour.condition, [origin.text for origin in origins])
    prompt = Prompt(messages=messages, seed=seed, temperature=plan.rate.temperature, max_tokens=max_tokens)
    asked = Asked(messages=tuple(messages))
    first = origins[0].context
    return Draft(prompt=prompt, origins=origins, form=RECIPE, asked=asked, context=first[: opening(first)])


def draft(plan: DreamPlan, form: str, seed: int, max_tokens: int) -> Draft:
    """Return a draft in one of `forms.FORMS`, for a model that was not trained on our prompts."""
    rng = random.Random(seed)
    origins = _seeds(plan, rng, in_context=form in NEEDS_CONTEXT)
    first = origins[0]
    asked = FORMS[form](
        Material(
            condition=plan.behaviour.condition,
            seeds=tuple(origin.text[:MAX_CHARACTERS] for origin in origins),
            context=first.context,
        ),
        rng,
    )
    prompt = Prompt(
        messages=asked.messages,
        seed=seed,
        temperature=foreign(plan.rate.temperature),
        max_tokens=max_tokens,
        opens=asked.opens,
        text=asked.text,
        stop=asked.stop,
        min_p=MIN_P,
        tools=first.tools if form in NEEDS_CONTEXT else (),
    )
    whole = form in NEEDS_CONTEXT or rng.random() < WHOLE_CONTEXT
    context = first.context if whole else first.context[: opening(first.context)]
    return Draft(prompt=prompt, origins=origins, form=form, asked=asked, context=context)


def form_of(best: str, yields: dict[str, float], plan: DreamPlan, seed: int) -> str:
    """Return the form of one draft: the best one, or that in the true context for a part of the drafts.

    Args:
        best: The form with the highest yield among those that need no context.
        yields: The estimated yield of each available form, by name.
        plan: The plan.
        seed: The seed of the draft.
    """
    rng = random.Random(seed ^ 1)
    for form in sorted(NEEDS_CONTEXT & yields.keys()):
        if plan.has_context and yields[form] >= GOOD_ENOUGH * yields[best] and rng.random() < WHOLE_CONTEXT:
            return form
    return best


def has_turns(origin: DreamOrigin) -> bool:
    """Return whether the request came after another turn, not only after a system prompt."""
    return len(origin.context) > opening(origin.context)


def _seeds(plan: DreamPlan, rng: random.Random, *, in_context: bool) -> list[DreamOrigin]:
    """Draw the origins that a prompt shows: from everywhere if the behaviour fails often, else alike."""
    pool = plan.origins
    count = min(len(pool), breadth(plan.rate.mean))
    episodes = [origin for origin in pool if origin in plan.episodes]
    close = [origin for origin in pool if origin in plan.hardest] or episodes
    is_near = bool(close) and rng.random() > max(NEAR_SHARE, plan.rate.mean)
    firsts = close if is_near else episodes if episodes and rng.random() < 0.5 else pool
    if in_context:
        firsts = [origin for origin in pool if has_turns(origin)]
    first = _draw(firsts, rng)
    others = [origin for origin in pool if origin.text != first.text]
    rng.shuffle(others)
    if is_near:
        words = word_set(first.text)
        others.sort(key=lambda origin: -jaccard(words, word_set(origin.text)))
    return [first, *others[: count - 1]]


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
