"""What the checkpoint commands tell: of the ledger and of the files together, or of the ledger alone.

Invariant: changes nothing in the home, whether a service runs or not.
"""

from collections.abc import Sequence
from pathlib import Path

from agents.model.describe import attention_heads
from agents.model.safety import check_model_dir
from agents.model.weights.hf_export import export, plan_export
from corpus.aliases import Json
from corpus.behaviour import definition
from corpus.errors import ConfigError, GateRefused, IntegrityFault
from corpus.json_edge import to_json
from loop.config import load_settings
from loop.engine import model_identity
from loop.operations import status
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.nights import lineage, report
from store.tensors.changes import Change, Extent, Heads, changes, summed, unlike


def form(store: CheckpointStore, checkpoint_id: str) -> Json | None:
    """How a checkpoint lies on the disk: kind, nbytes, base, optimizer; None where its files cannot tell."""
    try:
        found = store.stored(checkpoint_id)
        state = store.has_state(checkpoint_id)
    except (IntegrityFault, OSError):
        return None
    return {"kind": found.form, "nbytes": found.nbytes, "base": found.base, "optimizer": state}


def listed(home: Home) -> Json:
    """All checkpoints, with the bytes that their weights take on the disk."""
    store = CheckpointStore(home.checkpoints)
    with status.ledger_of(home) as connection:
        told = {"checkpoints": to_json(report.checkpoint_list(connection))}
    for row in told["checkpoints"]:
        found = None if row["pruned"] else form(store, row["id"])
        row["nbytes"] = None if found is None else found["nbytes"]
    return told


def shown(home: Home, wanted: str) -> Json:
    """Everything of one checkpoint."""
    store = CheckpointStore(home.checkpoints)
    with status.ledger_of(home) as connection:
        told: Json = to_json(lineage.one(connection, wanted, _definitions(home)))
    told["behaviours"] = _with_guards(home, told["behaviours"])
    told |= {"form": None, "manifest": None, "problem": None}
    if told["pruned"]:
        return told
    try:
        told |= {"manifest": store.manifest(told["id"]).fields, "form": form(store, told["id"])}
    except IntegrityFault as fault:
        told["problem"] = str(fault)
    return told


def difference(home: Home, wanted: Sequence[str]) -> Json:
    """What changed from one checkpoint to another: what was measured, and the weights themselves.

    `weights` is None where the files of one of them were pruned: `note` says so.
    """
    with status.ledger_of(home) as connection:
        told: Json = to_json(lineage.between(connection, wanted, _definitions(home)))
    told["behaviours"] = _with_guards(home, told["behaviours"])
    pruned = [side["id"] for side in (told["from"], told["to"]) if side["pruned"]]
    if pruned:
        names = " and ".join(name[:12] for name in pruned)
        return {
            **told,
            "weights": None,
            "note": f"the weights of {names} were pruned: this is the ledger's part alone",
        }
    store = CheckpointStore(home.checkpoints)
    split, note = _heads(home)
    before, after = (store.load_weights(told[side]["id"]) for side in ("from", "to"))
    found = list(changes(before, after, split))
    if split and not any(change.heads for change in found):
        note = "the attention of this model is not laid out in heads that are known"
    return {**told, "weights": _weights(found, unlike(before, after)), "note": note}


def model_directory(home: Home) -> Path:
    """The Hugging Face directory of the model that a home is of, known by its digest."""
    found = model_identity.model_directory(load_settings(home.config_file), home)
    if found is None:
        raise ConfigError(
            "which directory this home's model came from is not known: start its vLLM, or set model.path"
        )
    with status.ledger_of(home) as connection:
        wanted = queries.model_digest(connection)
    if wanted:
        model_identity.require_model(found, wanted, "set model.path to the one that it was begun with")
    return found


def exported(home: Home, wanted: str, directory: Path) -> Json:
    """Write a checkpoint as a Hugging Face directory."""
    with status.ledger_of(home) as connection:
        row = queries.checkpoint(connection, wanted)
        queries.require_stored(connection, row)
    model_dir = model_directory(home)
    check_model_dir(model_dir)
    plan = plan_export(model_dir, CheckpointStore(home.checkpoints).load_weights(row.id))
    files = export(plan, directory)
    return {
        "checkpoint": row.id,
        "weights_sha256": row.weights_sha256,
        "directory": str(directory),
        "model": str(model_dir),
        "files": files,
        "nbytes": sum(file["bytes"] for file in files),
        "copied_tensors": plan.copied,
        "retyped_tensors": plan.retyped,
    }


def _definitions(home: Home) -> dict[str, str]:
    """Of each behaviour, as it is measured now."""
    scenarios = load_settings(home.config_file).verdict.scenarios
    return {name: definition(behaviour, scenarios) for name, behaviour in home.behaviours().items()}


def _with_guards(home: Home, rows: list[Json]) -> list[Json]:
    """Rows of behaviours, each counter-behaviour after the one that it guards."""
    known = home.behaviours()
    found = [
        {
            "name": row["name"],
            "counter_of": known[row["name"]].counter_of if row["name"] in known else None,
            **row,
        }
        for row in rows
    ]
    return sorted(found, key=lambda row: (row["counter_of"] or row["name"], row["counter_of"] is not None))


def _heads(home: Home) -> tuple[Heads | None, str | None]:
    """How many heads the home's model has; else why that is not known."""
    try:
        counts = attention_heads(model_directory(home))
    except (ConfigError, GateRefused) as error:
        return None, f"heads are not told apart: {error}"
    if counts is None:
        return None, "the configuration of this model names no heads"
    return Heads(query=counts[0], key_value=counts[1]), None


def _weights(found: list[Change], missing: list[str]) -> Json:
    """The changes added up, and each head's, furthest moved first."""
    layers, kinds = summed(found, "layer"), summed(found, "kind")
    split = [
        {"layer": change.layer, "kind": change.kind, "head": number, "tensor": change.name, **extent.figures}
        for change in found
        for number, extent in enumerate(change.heads)
    ]
    inside = sorted(layer for layer in layers if isinstance(layer, int))
    order = [*inside, *([None] if None in layers else [])]
    return {
        "whole": sum((change.extent for change in found), Extent()).figures,
        "layers": [{"layer": layer, **layers[layer].figures} for layer in order],
        "kinds": [{"kind": kind, **kinds[kind].figures} for kind in sorted(map(str, kinds))],
        "heads": sorted(split, key=lambda row: -(row["relative"] or 0.0)),
        "only_in_one": missing,
    }
