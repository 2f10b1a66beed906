"""The tokens that a night may still generate, as `night.max_tokens` limits them.

An update that is not measured cannot be kept, so what its first round of measuring will cost is set aside
before anything is dreamt. Invariant: the figures come from the ledger and the settings, so a night that runs
again after a crash ends at the same place.
"""

from functools import partial

from loop.night.claims import any_claims
from loop.night.context import NightContext
from loop.verdict.claims import BATCH, guards_among, scenarios_after
from store.nights.cost import scenario_tokens, tokens_of

USUAL_SHARE = 4
"""The limit of an answer divided by this is its usual length, until something was measured."""


async def tokens_left(context: NightContext, night_id: str) -> int | None:
    """Return the tokens that a night's dreams and attempts may still generate; None if there is no limit."""
    most = context.settings.night.max_tokens
    if not most:
        return None
    spent = (await context.ledger.read(tokens_of, night_id)).generated
    return max(0, most - spent - await measuring_tokens(context))


async def measuring_tokens(context: NightContext) -> int:
    """Return about how many tokens the first round of measuring costs, before and after the update."""
    if not context.settings.trains:
        return 0
    claims, rounds = any_claims(context), context.settings.verdict.max_rounds
    guards = guards_among(claims.values())
    answers = sum(
        claim.samples * scenarios_after(claim, 0, guards=guards, rounds=rounds) for claim in claims.values()
    )
    return round(2 * answers * await _answer_tokens(context))


async def is_spent(context: NightContext, night_id: str) -> bool:
    """Return whether no further round of measuring can be paid for, even of one behaviour."""
    most = context.settings.night.max_tokens
    spent = (await context.ledger.read(tokens_of, night_id)).generated
    claims = any_claims(context).values()
    batch = max((min(BATCH, claim.scenarios) * claim.samples for claim in claims), default=0)
    return bool(most) and spent + round(2 * batch * await _answer_tokens(context)) > most


async def reason(context: NightContext, night_id: str) -> str:
    """Return the sentence for the user about a night whose work was cut short by the limit."""
    spent = (await context.ledger.read(tokens_of, night_id)).generated
    most, measuring = context.settings.night.max_tokens, await measuring_tokens(context)
    return (
        f"night.max_tokens = {most} left no more for dreams and attempts: {spent} were spent, "
        f"and measuring an update takes about {measuring}"
    )


async def _answer_tokens(context: NightContext) -> float:
    """Return the usual number of tokens of an answer to a held-out scenario."""
    usual = context.evaluator.limit.most / USUAL_SHARE
    return await context.ledger.read(partial(scenario_tokens, usual=usual))
