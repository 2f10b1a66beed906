"""The output of the commands on checkpoints and task vectors: tables on stdout, damage on stderr."""

from datetime import datetime

from rich.table import Table
from rich.text import Text

from agents.trainer.memory_estimate import format_bytes
from loop.cli.show.console import behaviour_name, err, out, rate
from loop.operations.results.checkpoints import (
    CheckpointList,
    CheckpointReport,
    Export,
    ImmediateRollback,
    KindChangeSize,
    ListedCheckpoint,
    MergeDryRun,
    Pin,
    Prune,
    PrunedCheckpoint,
    Recovered,
    RetainedCheckpoint,
    Rollback,
    TaskVectorReport,
    Verification,
)
from store.nights.results import MakingUpdate, UpdatePairs

SHORT = 12
"""Number of characters of an id that are printed; --json has the whole id."""


def listed(report: CheckpointList) -> None:
    """Print a table of all checkpoints."""
    table = Table("", "number", "id", "weights", "update", "meant to improve", "state", "size", "at")
    for row in report.checkpoints:
        table.add_row(
            "active" if row.active else "",
            str(row.number),
            row.id[:SHORT],
            row.weights_sha256[:SHORT],
            row.update_id or "base",
            ", ".join(row.targets),
            f"{row.state}, pinned" if row.pinned else row.state,
            _size(row),
            _local(row.at),
        )
    out.print(table)


def _size(row: ListedCheckpoint) -> str:
    """Format the size of a checkpoint's weights on disk."""
    if row.pruned:
        return "pruned"
    return "damaged" if row.nbytes is None else format_bytes(row.nbytes)


def _local(at: str) -> str:
    """Format a time from the ledger in this machine's time zone."""
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M")


def shown(report: CheckpointReport) -> None:
    """Print everything about one checkpoint."""
    state = f"{report.state}, pinned" if report.pinned else report.state
    lines = {
        "checkpoint": f"{report.id} (number {report.number}{', active' if report.active else ''})",
        "state": state + (f", pruned {_local(report.pruned)}" if report.pruned else ""),
        "at": _local(report.at),
        "parent": (report.parent_id or "none: this is the base")[:24],
        "children": ", ".join(child[:SHORT] for child in report.children) or "none",
        "weights": report.weights_sha256,
        "on disk": _on_disk(report),
    }
    manifest = report.manifest or {}
    own_lines = {"parent", "weights", "optimizer"}
    _lines(lines | {name: value for name, value in manifest.items() if name not in own_lines})
    if report.update:
        _update(report.update, report.targets)
    if report.behaviours:
        table = Table("behaviour", "passed", "")
        for row in report.behaviours:
            note = "" if row.current else "as defined at that time"
            table.add_row(behaviour_name(row.name, row.counter_of), rate(row), note)
        out.print(table)
    if report.readings:
        table = Table("reading", "mean", "standard deviation")
        for reading in report.readings:
            table.add_row(reading.name, f"{reading.mean:.4f}", f"{reading.spread:.4f}")
        out.print(table)


def _lines(values: dict[str, str]) -> None:
    for name, value in values.items():
        out.print(f"{name:18}{value}")


def _on_disk(report: CheckpointReport) -> str:
    if report.pruned:
        return "nothing: pruned"
    form = report.form
    if form is None:
        return report.problem or "damaged: see `nightschool checkpoints verify`"
    base = f" against {form.base[:SHORT]}" if form.base else ""
    state = "with" if form.optimizer else "without"
    return f"{form.kind}{base}, {format_bytes(form.nbytes)}, {state} optimizer state"


def _update(update: MakingUpdate, targets: list[str]) -> None:
    """Print the update that made a checkpoint."""
    verdict, pairs = update.verdict, update.pairs
    _lines(
        {
            "update": f"{update.id} of night {update.night_id}, {update.state}: {update.objective}, "
            f"{update.steps} steps",
            "meant to improve": ", ".join(targets) or "nothing new",
            "verdict": f"{verdict.decision}: {'; '.join(verdict.reasons)}" if verdict else "none",
            "pairs": f"{len(pairs.new)} new, {len(pairs.replay)} of replay ({pair_counts(pairs)})",
        }
    )


def pair_counts(pairs: UpdatePairs) -> str:
    """Format the numbers of pairs of each behaviour, such as "brevity 12 + 3": 12 new, 3 of replay."""
    return ", ".join(
        f"{row.name} {row.new}" + (f" + {row.replay}" if row.replay else "") for row in pairs.behaviours
    )


def exported(report: Export) -> None:
    """Print the files of an export."""
    for file in report.files:
        out.print(f"{file.sha256[:SHORT]}  {format_bytes(file.bytes):>10}  {file.name}")
    if copied := len(report.copied_tensors):
        out.print(f"{copied} tensors that are not trained were copied from {report.model}")
    if retyped := len(report.retyped_tensors):
        out.print(
            f"{retyped} tensors have the checkpoint's type, because the model's own type would lose bits"
        )
    out.print(
        f"checkpoint {report.checkpoint[:SHORT]} was written to {report.directory}",
        soft_wrap=True,
    )
    out.print(f"weights {report.weights_sha256}")


def pruned(report: Prune) -> None:
    """Print which checkpoints were pruned, which stay, and why."""
    outcome = "would be pruned" if report.dry_run else "pruned"
    table = Table("number", "id", "state", "at", "stays because it is")
    rows: list[PrunedCheckpoint] = [*report.kept, *report.pruned]
    for row in sorted(rows, key=lambda row: row.number):
        why = (
            Text(", ".join(row.reasons))
            if isinstance(row, RetainedCheckpoint)
            else Text(outcome, style="red")
        )
        table.add_row(str(row.number), row.id[:SHORT], row.state, _local(row.at), why)
    out.print(table)
    freed = f"{'about ' if report.dry_run else ''}{format_bytes(report.freed_bytes)} no longer needed"
    out.print(f"{len(report.pruned)} {outcome}, {len(report.kept)} stay; {freed}")
    out.print(f"{format_bytes(report.trash_bytes)} in the trash (--empty-trash frees them now)")
    targets = ", ".join(name[:SHORT] for name in report.reachable)
    out.print(f"rollback targets: {targets or 'none, only the active checkpoint is left'}")


def recovered(report: Recovered) -> None:
    """Print what `recover` entered, and which checkpoint is active."""
    if report.put_back:
        out.print(f"{report.put_back} files came back from the trash")
    out.print(f"{len(report.entered)} checkpoints entered; active: {report.number} ({report.active[:SHORT]})")
    for name in report.damaged:
        err.print(f"checkpoint {name[:SHORT]} is damaged: `nightschool checkpoints verify` says where")
    if not report.known:
        err.print(
            "the files do not say which checkpoint was active: the newest one that certainly was kept "
            "is now. `nightschool recover --active ID` names another one"
        )


def pinned(report: Pin) -> None:
    """Print whether a checkpoint is now pinned."""
    state, already = "pinned" if report.pinned else "not pinned", "" if report.changed else " already"
    out.print(f"checkpoint {report.number} ({report.checkpoint[:SHORT]}) is {state}{already}")


def verified(report: Verification) -> None:
    """Print what was hashed, and on stderr what is damaged."""
    for fault in report.damaged:
        err.print(f"{fault.path}: {fault.problem}")
    for problem in report.ledger:
        err.print(f"ledger: {problem}")
    part = "" if report.sample == 1 else f" ({report.hashed} of them hashed, a sample of {report.sample:.0%})"
    pruned_count = f", {report.pruned} pruned" if report.pruned else ""
    out.print(
        f"{report.checkpoints} checkpoints{part}{pruned_count}: {len(report.damaged)} damaged files, "
        f"{len(report.ledger)} faults in the ledger"
    )


def rolled_back(report: Rollback) -> None:
    """Print which checkpoint is active after a rollback, and which updates are undone or in effect again."""
    verb = "would move" if report.dry_run else "moved"
    out.print(
        f"{verb} from {report.from_[:SHORT]} to {report.to[:SHORT]} (weights {report.weights_sha256[:SHORT]})"
    )
    if isinstance(report, ImmediateRollback) and report.night:
        out.print(f"{'would end' if report.dry_run else 'ended'}: night {report.night}")
    if report.restored:
        out.print(f"in effect again: {', '.join(report.restored)}")
    if report.undone:
        out.print(
            f"undone: {', '.join(report.undone)}; `nightschool night --retry` learns from the pairs again"
        )


# ---------------------------------------------------------------- task vectors


def vector(report: TaskVectorReport) -> None:
    """Print the updates of a task vector, and how much it changes the weights."""
    updates = ", ".join(report.updates)
    out.print(f"from {report.from_[:SHORT]} to {report.to[:SHORT]}: added by {updates}")
    _sizes(report)
    if report.out:
        out.print(f"written to {report.out}")


def merge_dry_run(report: MergeDryRun) -> None:
    """Print the task vectors of a merge, and how much the merge would change the weights."""
    table = Table("weight", "from", "to", "updates", title=f"merge by {report.method}")
    for part in report.parts:
        updates = ", ".join(part.updates)
        table.add_row(f"{part.weight:g}", part.start[:SHORT], part.end[:SHORT], updates)
    out.print(table)
    out.print(f"meant to rise: {', '.join(report.rise) or 'nothing'}")
    out.print(f"meant to fall: {', '.join(report.unlearn) or 'nothing'}")
    out.print(
        f"pairs that would count as learnt: {report.pairs.learnt}, as unlearnt: {report.pairs.unlearnt}"
    )
    _sizes(report)
    for reason in report.reasons:
        out.print(reason)
    out.print(f"a dry run onto checkpoint {report.checkpoint[:SHORT]}: nothing was changed")


def _sizes(report: TaskVectorReport | MergeDryRun) -> None:
    """Print the norm of the change and the share of changed elements, for each kind of weight and in all."""
    table = Table("kind of weight", "norm", "changed", "elements")
    whole = KindChangeSize(kind="all", norm=report.norm, changed=report.changed, elements=report.elements)
    for row in [*report.kinds, whole]:
        share = f"{row.changed / row.elements:.2%}" if row.elements else ""
        table.add_row(row.kind, f"{row.norm:.4g}", share, str(row.elements))
    out.print(table)
