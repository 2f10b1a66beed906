"""The claims that the verdict on a night's update tests: for each behaviour, and for the abilities.

Invariant: the claims of a night follow from the ledger and the settings before anything of the update is
measured, so they are the same whenever they are asked for.
"""

from sqlalchemy import Connection

from agents.evaluator.scenarios import extent
from corpus.abilities.prompts import NAME
from corpus.behaviour import Behaviour
from loop.night.context import NightContext
from loop.verdict.claims import Claim
from loop.verdict.evidence import NOISE
from store import queries

SAMPLED_NOISE = 0.08
"""The noise of `loop.verdict.evidence.shown_by` for models other than the shipped one. Two nights of SmolLM2
turned 0 to 15 % of a counter-behaviour's scenarios each way, and 11 % of the abilities' 188 prompts."""


def claims_of(connection: Connection, context: NightContext, night_id: str) -> dict[str, Claim]:
    """Return the claims of a night, by name.

    Args:
        connection: The ledger.
        context: The opened home.
        night_id: The night.
    """
    night, update = queries.night(connection, night_id), queries.update_of(connection, night_id)
    unlearnt = [] if update is None else queries.unlearnt_by(update)
    learnt = queries.learnt_behaviours(connection)
    claims = {}
    for name, behaviour in context.behaviours.items():
        meant = name in night.targets
        gated = behaviour.counter_of is not None or meant or name in learnt
        claims[name] = _claim(behaviour, context, meant=meant, falls=name in unlearnt, gated=gated)
    return {**claims, **abilities_claim(context)}


def any_claims(context: NightContext) -> dict[str, Claim]:
    """Return the claims of a night whose update is not known yet: everything has to be held."""
    claims = {
        name: _claim(behaviour, context, meant=False, falls=False, gated=True)
        for name, behaviour in context.behaviours.items()
    }
    return {**claims, **abilities_claim(context)}


def abilities_claim(context: NightContext) -> dict[str, Claim]:
    """Return the claim of the test `abilities`; {} if that test is not used."""
    if not context.abilities:
        return {}
    margin = context.settings.verdict.abilities_margin
    count = len(context.abilities)
    return {NAME: Claim(behaviour=NAME, margin=margin, scenarios=count, noise=SAMPLED_NOISE)}


def _claim(behaviour: Behaviour, context: NightContext, *, meant: bool, falls: bool, gated: bool) -> Claim:
    limits = context.settings.verdict
    there = extent(behaviour, limits.scenarios)
    return Claim(
        behaviour=behaviour.name,
        meant=meant,
        falls=falls,
        gated=gated,
        margin=limits.margin,
        scenarios=there.scenarios,
        samples=there.samples,
        noise=NOISE if context.is_shipped else SAMPLED_NOISE,
    )
