"""The output of a night (pass rates, verdict and checkpoint) and of its dry run (training steps)."""

from rich.table import Table

from corpus.text import visible
from loop.cli.show.console import behaviour_name, out, points, rate
from loop.operations.results.nights import CancelledUpdate, DryRun, NightResult
from store.nights.results import BehaviourRates, UpdateSummary

_STEP = {
    "loss": "loss",
    "chosen (nats/token)": "chosen_logprob",
    "rejected": "rejected_logprob",
    "margin": "margin",
    "gradient norm": "grad_norm",
    "update/weights": "update_ratio",
    "rate": "lr",
}
"""The columns of a table of training steps: the metric of each heading."""
_PLACES = {
    "system": "in the system prompt",
    "end": "at the end of the request",
    "hindsight": "as the correction of a bad answer",
}
"""Words for where a prompt carries an instruction."""


def night_or_dry_run(result: NightResult | DryRun) -> None:
    """Print the result of a night, or the steps of a dry run."""
    if isinstance(result, DryRun):
        dry_run(result)
    else:
        night(result)


def night(report: NightResult) -> None:
    """Print the result of a night that has ended."""
    out.print(
        f"read {report.conversations} conversations ({report.turns} turns), found {report.signals} signals; "
        f"{report.dreams} dreams, {report.pairs} pairs, {report.seconds:.0f} s"
    )
    _dream_forms(report)
    _placements(report)
    _tokens(report)
    if report.behaviours:
        _rates(report.behaviours)
    if report.retention and report.retention.before and report.retention.after:
        before, after = report.retention.before, report.retention.after
        out.print(f"perplexity on ordinary text  {before:.3f} -> {after:.3f} ({after / before:.2f}x)")
    _influence(report)
    for update in report.updates:
        out.print(f"update {update.id}: {_origin(update)}")
        out.print(f"verdict     {update.verdict}: {'; '.join(update.reasons)}")
        out.print(f"checkpoint  {update.checkpoint}")
    for reason in report.reasons if report.updates else ():
        if reason not in report.updates[0].reasons:
            out.print(f"left out    {reason}")
    if not report.updates:
        out.print(f"nothing happened: {'; '.join(report.reasons)}")
    why = f" | ledger why {report.updates[0].id}" if report.updates else ""
    out.print(f"see also: nightschool status | ledger updates{why} | ask 'TEXT' | rollback")


def _dream_forms(report: NightResult) -> None:
    """Print what each form of prompt has yielded, if the night has tried several."""
    if len(report.dream_forms) > 1:
        parts = (
            f"{one.form} {one.used} of {one.used + sum(one.refused.values())}" for one in report.dream_forms
        )
        out.print(f"dreams      used, by the form of their prompt: {', '.join(parts)}")


def _placements(report: NightResult) -> None:
    """Print where the instructions of behaviours were found to work."""
    for one in report.placements:
        if one.placement is not None:
            passed = f"{one.told[one.placement]} of {one.dreams} pass, {one.alone} without it"
            out.print(f"instructed  {one.behaviour}: {_PLACES[one.placement]} ({passed})")


def _tokens(report: NightResult) -> None:
    """Print what the night has cost, in tokens."""
    cost, pair = report.tokens, report.tokens_per_pair
    if cost.generated:
        each = "" if pair is None else f" ({pair:g} a pair)"
        out.print(
            f"tokens      {cost.generated:,} generated: dreams {cost.dreams:,}, "
            f"attempts {cost.attempts:,}{each}, verdict {cost.verdict:,}; readings read {cost.readings:,}"
        )


def _influence(report: NightResult) -> None:
    """Print how much each source has taught, and the words that a source brought into the answers."""
    if report.sources:
        parts = (f"{visible(one.source) or 'declared'} {one.share:.0%}" for one in report.sources[:5])
        left = sum(one.share for one in report.sources[5:])
        out.print(f"taught by   {', '.join(parts)}{f', others {left:.0%}' if left else ''} of the new pairs")
    for one in report.grown_words:
        if one.brought_by:
            sources = ", ".join(visible(source) for source in one.brought_by)
            grown = f"{one.before:.0%} -> {one.after:.0%} of the answers to {one.behaviour}"
            out.print(f"brought in  '{visible(one.word)}': {grown}; the logs of {sources} have it")


def _origin(update: UpdateSummary) -> str:
    """Format how an update was made: by steps over pairs, or as a merge of task vectors."""
    if update.recipe is None:
        return f"{update.steps} steps over {update.pairs} pairs ({update.objective}){_chosen(update)}"
    recipe = update.recipe
    parts = ", ".join(f"{part.weight:g} x {' + '.join(part.updates)}" for part in recipe.parts)
    density = f", density {recipe.density:g}" if recipe.density else ""
    return f"merge of {parts} ({recipe.method}{density})"


def _chosen(update: UpdateSummary) -> str:
    """Format the learning rate of an update and how it was found; "" for an update that was not trained."""
    chosen = update.chosen
    if chosen is None:
        return ""
    share = chosen.first_share
    found = "" if share is None else f" (found: a first step of {share:.2%} of the weights' norm)"
    kind = "" if chosen.compute == "weights" else f", computed in {chosen.compute}"
    return f", learning rate {chosen.lr:.2g}{found}{kind}"


def _rates(rows: list[BehaviourRates]) -> None:
    table = Table("behaviour", "before", "after", "change", title="pass rates on held-out scenarios")
    for row in rows:
        change = points(row.before, row.after) if row.before and row.after else ""
        table.add_row(behaviour_name(row.name, row.counter_of), rate(row.before), rate(row.after), change)
    out.print(table)


def dry_run(report: DryRun) -> None:
    """Print the training steps that a night would make, one line for each."""
    waiting = f"{report.conversations} conversations to read, {report.lessons} lessons"
    out.print(f"waiting: {waiting}" + (f" for {', '.join(report.targets)}" if report.targets else ""))
    for reason in report.reasons:
        out.print(reason)
    if report.steps:
        title = f"{report.pairs} pairs and {report.replay} of replay, {report.objective}"
        table = Table("step", *_STEP, title=title)
        for step in report.steps:
            cells = (f"{step[name]:.4g}" if name in step else "" for name in _STEP.values())
            table.add_row(f"{step['step']:g}/{step['steps']:g}", *cells)
        out.print(table)
    out.print(f"a dry run at the weights of checkpoint {report.checkpoint[:12]}: nothing was changed")


def cancelled(report: CancelledUpdate) -> None:
    """Print the update that was cancelled."""
    out.print(f"update {report.update} of night {report.night}: {'; '.join(report.reasons)}")
    out.print("its pairs are undone: `nightschool night --retry` learns from them again")
