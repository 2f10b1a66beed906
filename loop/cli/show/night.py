"""The output of a night: pass rates before and after, the verdict, the checkpoint; or the steps of a dry run."""

from rich.table import Table

from corpus.aliases import Json
from loop.cli.show.console import out, rate

_STEP = {
    "loss": "loss",
    "chosen (nats/token)": "chosen_logprob",
    "rejected": "rejected_logprob",
    "margin": "margin",
    "gradient norm": "grad_norm",
    "update/weights": "update_ratio",
}
"""What is shown of a step: heading to metric."""


def night(told: Json) -> None:
    out.print(
        f"heard {told['conversations']} conversations ({told['turns']} turns), found {told['signals']} signals; "
        f"{told['dreams']} dreams, {told['pairs']} pairs, {told['seconds']:.0f} s"
    )
    if told["behaviours"]:
        _before_after(told["behaviours"])
    if told["retention"] and told["retention"]["after"]:
        before, after = told["retention"]["before"], told["retention"]["after"]
        out.print(f"perplexity on ordinary text  {before:.3f} -> {after:.3f} ({after / before:.2f}x)")
    for update in told["updates"]:
        out.print(f"update {update['id']}: {_made_of(update)}")
        out.print(f"verdict     {update['verdict']}: {'; '.join(update['reasons'])}")
        out.print(f"checkpoint  {update['checkpoint']}")
    if not told["updates"]:
        out.print(f"nothing happened: {'; '.join(told['reasons'])}")
    why = f" | ledger why {told['updates'][0]['id']}" if told["updates"] else ""
    out.print(f"look further: nightschool status | ledger updates{why} | ask 'TEXT' | rollback")


def _made_of(update: Json) -> str:
    """Steps over pairs, or what was merged."""
    if "recipe" not in update:
        return f"{update['steps']} steps over {update['pairs']} pairs ({update['objective']})"
    recipe = update["recipe"]
    parts = ", ".join(f"{p['weight']:g} x {' + '.join(p['updates'])}" for p in recipe["parts"])
    return f"merge of {parts} ({recipe['method']}" + (
        f", density {recipe['density']:g})" if recipe["density"] else ")"
    )


def dry_run(told: Json) -> None:
    """A dry run: one line a step."""
    waiting = f"{told['conversations']} conversations to read, {told['lessons']} lessons"
    out.print(f"waiting: {waiting}" + (f" for {', '.join(told['targets'])}" if told["targets"] else ""))
    for reason in told["reasons"]:
        out.print(reason, markup=False)
    if told["steps"]:
        table = Table(
            "step", *_STEP, title=f"{told['pairs']} pairs and {told['replay']} of replay, {told['objective']}"
        )
        for step in told["steps"]:
            cells = (f"{step[name]:.4g}" if name in step else "" for name in _STEP.values())
            table.add_row(f"{step['step']}/{step['steps']}", *cells)
        out.print(table)
    out.print("a dry run at the weights of checkpoint " + told["checkpoint"][:12] + ": nothing was changed")


def _before_after(rows: list[Json]) -> None:
    table = Table(
        "behaviour", "held out, before", "after", "change", title="pass rates on held-out scenarios"
    )
    for row in rows:
        name = f"  guards: {row['name']}" if row["counter_of"] else row["name"]
        before, after = row["before"], row["after"]
        change = ""
        if before and after:
            points = 100 * (after["passed"] / after["trials"] - before["passed"] / before["trials"])
            change = f"{points:+.0f} points"
        table.add_row(name, rate(before), rate(after), change)
    out.print(table)


def cancelled(told: Json) -> None:
    out.print(f"update {told['update']} of night {told['night']}: {'; '.join(told['reasons'])}")
    out.print("its pairs are set aside: `nightschool night --retry` would take them up again")
