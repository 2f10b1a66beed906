"""The tokens that a night may still generate, by `night.max_tokens`.

An update that is not measured cannot be kept, so what its first round of measuring will cost is set aside
before anything is dreamt. Invariant: the figures come from the ledger and the settings, so a night that runs
again after a crash ends at the same place.
"""

from functools import partial

from loop.night.context import NightContext
from store.nights.cost import scenario_tokens, tokens_of

USUAL_SHARE = 4
"""The limit of an answer divided by this is its usual length, until something was measured."""


async def tokens_left(context: NightContext, night_id: str) -> int | None:
    """Return the tokens that a night's dreams and attempts may still generate; None if there is no limit."""
    most = context.settings.night.max_tokens
    if not most:
        return None
    spent = (await context.ledger.read(tokens_of, night_id)).generated
    return max(0, most - spent - await round_tokens(context, len(context.measured)))


async def round_tokens(context: NightContext, names: int) -> int:
    """Return about how many tokens a round of measuring costs, before and after the update.

    Args:
        context: The opened home.
        names: How many behaviours are measured.
    """
    if not context.settings.trains:
        return 0
    usual = context.evaluator.limit.most / USUAL_SHARE
    each = await context.ledger.read(partial(scenario_tokens, usual=usual))
    return round(2 * names * context.settings.verdict.scenarios * each)


async def is_spent(context: NightContext, night_id: str) -> bool:
    """Return whether no further round of measuring can be paid for, even of one behaviour."""
    most = context.settings.night.max_tokens
    spent = (await context.ledger.read(tokens_of, night_id)).generated
    return bool(most) and spent + await round_tokens(context, 1) > most


async def reason(context: NightContext, night_id: str) -> str:
    """Return the sentence for the user about a night whose work was cut short by the limit."""
    spent = (await context.ledger.read(tokens_of, night_id)).generated
    most, measuring = context.settings.night.max_tokens, await round_tokens(context, len(context.measured))
    return (
        f"night.max_tokens = {most} left no more for dreams and attempts: {spent} were spent, "
        f"and measuring an update takes about {measuring}"
    )
