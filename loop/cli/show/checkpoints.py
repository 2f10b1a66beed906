"""What a person sees of checkpoints: tables on stdout, faults on stderr.

Invariant: as in `show.py`.
"""

from datetime import datetime

from rich.table import Table

from agents.trainer.memory_estimate import format_bytes
from corpus.aliases import Json
from loop.cli.show.console import err, out, rate


def listed(told: Json) -> None:
    table = Table("", "number", "id", "weights", "update", "meant to improve", "state", "size", "at")
    for row in told["checkpoints"]:
        table.add_row(
            "active" if row["active"] else "",
            str(row["number"]),
            row["id"][:12],
            row["weights_sha256"][:12],
            row["update_id"] or "base",
            ", ".join(row["targets"]),
            _state(row),
            _size(row),
            local(row["at"]),
        )
    out.print(table)


def _state(row: Json) -> str:
    return f"{row['state']}, pinned" if row["pinned"] else str(row["state"])


def _size(row: Json) -> str:
    if row["pruned"]:
        return "pruned"
    return "damaged" if row["nbytes"] is None else format_bytes(row["nbytes"])


def local(at: str) -> str:
    """A time of the ledger, on this machine's clock."""
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M")


def shown(told: Json) -> None:
    lines = {
        "checkpoint": f"{told['id']} (number {told['number']}{', active' if told['active'] else ''})",
        "state": _state(told) + (f", pruned {local(told['pruned'])}" if told["pruned"] else ""),
        "at": local(told["at"]),
        "parent": (told["parent_id"] or "none: this is the base")[:24],
        "children": ", ".join(child[:12] for child in told["children"]) or "none",
        "weights": told["weights_sha256"],
        "on the disk": _form(told),
    }
    for name, value in (told["manifest"] or {}).items():
        if name not in ("parent", "weights", "optimizer"):
            lines[name] = value
    _lines(lines)
    if told["update"]:
        _update(told["update"], told["targets"])
    if told["behaviours"]:
        table = Table("behaviour", "passed", "")
        for row in told["behaviours"]:
            table.add_row(_name(row), rate(row), "" if row["current"] else "as it was defined then")
        out.print(table)
    if told["readings"]:
        table = Table("reading", "mean", "spread")
        for row in told["readings"]:
            table.add_row(row["name"], f"{row['mean']:.4f}", f"{row['spread']:.4f}")
        out.print(table)


def _lines(values: Json) -> None:
    for name, value in values.items():
        out.print(f"{name:18}{value}", markup=False)


def _name(row: Json) -> str:
    return f"  guards: {row['name']}" if row["counter_of"] else str(row["name"])


def _form(told: Json) -> str:
    """How it lies on the disk."""
    if told["pruned"]:
        return "nothing: it was pruned"
    form = told["form"]
    if form is None:
        return str(told["problem"] or "damaged: see `nightschool checkpoints verify`")
    base = f" against {form['base'][:12]}" if form["base"] else ""
    state = "with" if form["optimizer"] else "without"
    return f"{form['kind']}{base}, {format_bytes(form['nbytes'])}, {state} the optimizer's state"


def _update(update: Json, targets: list[str]) -> None:
    """The update that made a checkpoint."""
    verdict = update["verdict"]
    pairs = update["pairs"]
    _lines(
        {
            "update": f"{update['id']} of night {update['night_id']}, {update['state']}: {update['objective']}, "
            f"{update['steps']} steps",
            "meant to improve": ", ".join(targets) or "nothing new",
            "verdict": f"{verdict['decision']}: {'; '.join(verdict['reasons'])}" if verdict else "none",
            "pairs": f"{len(pairs['new'])} new, {len(pairs['replay'])} of replay ({counted(pairs)})",
        }
    )


def counted(pairs: Json) -> str:
    """How many pairs of each behaviour, replay after a plus."""
    rows = pairs["behaviours"]
    return ", ".join(
        f"{row['name']} {row['new']}" + (f" + {row['replay']}" * bool(row["replay"])) for row in rows
    )


def exported(told: Json) -> None:
    for file in told["files"]:
        out.print(f"{file['sha256'][:12]}  {format_bytes(file['bytes']):>10}  {file['name']}", markup=False)
    if told["copied_tensors"]:
        out.print(f"{len(told['copied_tensors'])} tensors that are not trained are those of {told['model']}")
    if told["retyped_tensors"]:
        out.print(
            f"{len(told['retyped_tensors'])} tensors are in the type of the checkpoint: theirs would lose bits"
        )
    out.print(f"checkpoint {told['checkpoint'][:12]} is in {told['directory']}", markup=False, soft_wrap=True)
    out.print(f"weights {told['weights_sha256']}")


def pruned(told: Json) -> None:
    """What went, what stays and why."""
    would = "would go" if told["dry_run"] else "gone"
    table = Table("number", "id", "state", "at", "stays because it is")
    rows = sorted([*told["kept"], *told["pruned"]], key=lambda row: row["number"])
    for row in rows:
        why = ", ".join(row["reasons"]) if "reasons" in row else f"[red]{would}[/red]"
        table.add_row(str(row["number"]), row["id"][:12], row["state"], local(row["at"]), why)
    out.print(table)
    count, freed = len(told["pruned"]), format_bytes(told["freed_bytes"])
    out.print(
        f"{count} {would}, {len(told['kept'])} stay; {'about ' if told['dry_run'] else ''}{freed} freed"
    )
    where = ", ".join(name[:12] for name in told["reachable"]) or "nowhere: only the active one is left"
    out.print(f"a rollback can go to {where}")


def pinned(told: Json) -> None:
    verb = "pinned" if told["pinned"] else "not pinned"
    out.print(
        f"checkpoint {told['number']} ({told['checkpoint'][:12]}) is {verb}{'' if told['changed'] else ' already'}"
    )


def verified(told: Json) -> None:
    for fault in told["damaged"]:
        err.print(f"{fault['path']}: {fault['problem']}", markup=False)
    for problem in told["ledger"]:
        err.print(f"ledger: {problem}", markup=False)
    part = (
        "" if told["sample"] == 1 else f" ({told['hashed']} of them hashed, a part of {told['sample']:.0%})"
    )
    pruned = f", {told['pruned']} pruned" if told["pruned"] else ""
    out.print(
        f"{told['checkpoints']} checkpoints{part}{pruned}: {len(told['damaged'])} damaged files, "
        f"{len(told['ledger'])} faults in the ledger"
    )


def rolled_back(told: Json) -> None:
    verb = "would go" if told["dry_run"] else "went"
    out.print(f"{verb} from {told['from'][:12]} to {told['to'][:12]} (weights {told['weights_sha256'][:12]})")
    if told.get("night"):
        out.print(f"{'would end' if told['dry_run'] else 'ended'}: night {told['night']}")
    if told["restored"]:
        out.print(f"taken back up: {', '.join(told['restored'])}")
    if told["undone"]:
        out.print(f"undone: {', '.join(told['undone'])}; `nightschool night --retry` would take it up again")


def vector(told: Json) -> None:
    updates = ", ".join(told["updates"])
    out.print(f"from {told['from'][:12]} to {told['to'][:12]}: what {updates} added")
    _figures(told)
    if told["out"]:
        out.print(f"written to {told['out']}", markup=False)


def merge_dry_run(told: Json) -> None:
    """A dry run of a merge."""
    table = Table("weight", "from", "to", "updates", title=f"merge by {told['method']}")
    for part in told["parts"]:
        table.add_row(f"{part['weight']:g}", part["start"][:12], part["end"][:12], ", ".join(part["updates"]))
    out.print(table)
    out.print(f"meant to rise: {', '.join(told['rise']) or 'nothing'}")
    out.print(f"meant to fall: {', '.join(told['unlearn']) or 'nothing'}")
    out.print(
        f"pairs: {told['pairs']['learnt']} would count as learnt, {told['pairs']['unlearnt']} as unlearnt"
    )
    _figures(told)
    for reason in told["reasons"]:
        out.print(reason, markup=False)
    out.print(f"a dry run onto checkpoint {told['checkpoint'][:12]}: nothing was changed")


def _figures(told: Json) -> None:
    """Norm and share of what changes, by kind of weight."""
    table = Table("kind of weight", "norm", "changed", "elements")
    for row in [*told["kinds"], {"kind": "all", **told}]:
        share = f"{row['changed'] / row['elements']:.2%}" if row["elements"] else ""
        table.add_row(row["kind"], f"{row['norm']:.4g}", share, str(row["elements"]))
    out.print(table)
