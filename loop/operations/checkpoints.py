"""The checkpoint commands that only read the home: list, show, diff, export, verify.

Invariant: these commands change nothing in the home, and work whether a service runs or not. `verify` always
hashes the active checkpoint and reads every manifest, however small the sample is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeVar

from sqlalchemy import Connection

from agents.model.describe import attention_heads
from agents.model.safety import check_model_dir
from agents.model.weights.hf_export import export, plan_export
from corpus.errors import ConfigError, GateRefused, IntegrityFault, UsageError
from loop.config import load_settings
from loop.engine import model_identity
from loop.night.context import ability_prompts, definitions
from loop.operations.results.checkpoints import (
    CheckpointList,
    CheckpointReport,
    DamagedFile,
    Difference,
    Export,
    ExportedFile,
    HeadChange,
    KindChange,
    LayerChange,
    ListedCheckpoint,
    StoredForm,
    Verification,
    WeightChanges,
)
from loop.operations.status import ledger_of
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.nights import lineage, report
from store.nights.audit import audit
from store.nights.comparisons import ComparedBehaviour
from store.nights.results import MeasuredBehaviour
from store.tensors.changes import Change, Extent, Heads, changes, summed, unlike

AnyBehaviour = TypeVar("AnyBehaviour", MeasuredBehaviour, ComparedBehaviour)


def list_checkpoints(home: Home) -> CheckpointList:
    """Return all checkpoints, each with the size of its weights on disk."""
    store = CheckpointStore(home.checkpoints)
    with ledger_of(home) as connection:
        rows = report.checkpoint_list(connection)
    checkpoints = []
    for row in rows:
        form = None if row.pruned else _form(store, row.id)
        checkpoints.append(ListedCheckpoint(**vars(row), nbytes=None if form is None else form.nbytes))
    return CheckpointList(checkpoints=checkpoints)


def describe(home: Home, wanted: str) -> CheckpointReport:
    """Return everything that the ledger and the files hold about one checkpoint.

    Args:
        home: The home.
        wanted: The checkpoint, as a user names it.
    """
    store = CheckpointStore(home.checkpoints)
    with ledger_of(home) as connection:
        details = lineage.one(connection, wanted, _definitions(home, connection))
        details = replace(details, behaviours=_with_guards(home, connection, details.behaviours))
    form = manifest = problem = None
    if not details.pruned:
        try:
            manifest, form = store.manifest(details.id).fields, _form(store, details.id)
        except IntegrityFault as fault:
            problem = str(fault)
    return CheckpointReport(**vars(details), form=form, manifest=manifest, problem=problem)


def compare(home: Home, wanted: Sequence[str]) -> Difference:
    """Return the differences between two checkpoints, in measurements and weights.

    Args:
        home: The home.
        wanted: The two checkpoints, from and to, as a user names them.
    """
    with ledger_of(home) as connection:
        rows = lineage.between(connection, wanted, _definitions(home, connection))
        rows = replace(rows, behaviours=_with_guards(home, connection, rows.behaviours))
    if pruned := [side.id[:12] for side in (rows.from_, rows.to) if side.pruned]:
        note = f"the weights of {' and '.join(pruned)} were pruned: this is the ledger's part alone"
        return Difference(**vars(rows), weights=None, note=note)
    store = CheckpointStore(home.checkpoints)
    split, problem = _heads(home)
    before, after = store.load_weights(rows.from_.id), store.load_weights(rows.to.id)
    tensors = list(changes(before, after, split))
    if split and not any(change.heads for change in tensors):
        problem = "the layout of the attention heads in this model is not known"
    return Difference(**vars(rows), weights=_weights(tensors, unlike(before, after)), note=problem)


def model_directory(home: Home) -> Path:
    """Return the Hugging Face directory of the home's model, after a check of its digest."""
    directory = model_identity.model_directory(load_settings(home.config_file), home)
    if directory is None:
        raise ConfigError(
            "the directory of this home's model is not known: start its vLLM, or set model.path"
        )
    with ledger_of(home) as connection:
        wanted = queries.model_digest(connection)
    if wanted:
        model_identity.require_model(directory, wanted, "set model.path to the one that `init` used")
    return directory


def write_export(home: Home, wanted: str, directory: Path) -> Export:
    """Write a checkpoint as a Hugging Face directory, and return the list of what was written.

    Args:
        home: The home.
        wanted: The checkpoint, as a user names it.
        directory: The directory to write, which must be new or empty.
    """
    with ledger_of(home) as connection:
        checkpoint = queries.checkpoint(connection, wanted)
        queries.require_stored(connection, checkpoint)
    model_dir = model_directory(home)
    check_model_dir(model_dir)
    plan = plan_export(model_dir, CheckpointStore(home.checkpoints).load_weights(checkpoint.id))
    files = [ExportedFile(**file) for file in export(plan, directory)]
    return Export(
        checkpoint=checkpoint.id,
        weights_sha256=checkpoint.weights_sha256,
        directory=str(directory),
        model=str(model_dir),
        files=files,
        nbytes=sum(file.bytes for file in files),
        copied_tensors=list(plan.copied),
        retyped_tensors=list(plan.retyped),
    )


def parse_share(text: str) -> float:
    """Parse a share and return it as a number up to 1: "0.1", "10%" and "10" all give 0.1.

    Raises:
        UsageError: The text is not a share above 0 and up to 1.
    """
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if text.endswith("%") or value > 1:
        value /= 100
    if not 0 < value <= 1:
        raise UsageError(f"--sample {text!r} is not a share: write 0.1, or 10%")
    return value


def verify(home: Home, share: float) -> Verification:
    """Hash a random sample of the checkpoints and of the ledger's rows again, and return what is damaged.

    Args:
        home: The home.
        share: Size of the sample, above 0 and up to 1.
    """
    draw = Random()
    store = CheckpointStore(home.checkpoints)
    with ledger_of(home) as connection:
        rows = queries.checkpoints(connection)
        stored = queries.stored(connection)
        sample = {name for name in stored if draw.random() < share} | {queries.active(connection).id}
        ledger_faults = audit(connection, store.manifest, lambda _: draw.random() < share)
    faults = store.verify(stored, sample=sample.__contains__)
    if faults:  # a checkpoint that a service has pruned meanwhile is not damaged
        with ledger_of(home) as connection:
            still_stored = queries.stored(connection)
        faults = [fault for fault in faults if fault.checkpoint_id in still_stored]
    return Verification(
        checkpoints=len(stored),
        hashed=len(sample),
        pruned=len(rows) - len(stored),
        sample=share,
        damaged=[
            DamagedFile(checkpoint=fault.checkpoint_id, path=str(fault.path), problem=fault.problem)
            for fault in faults
        ],
        ledger=ledger_faults,
    )


def _form(store: CheckpointStore, checkpoint_id: str) -> StoredForm | None:
    """Return the form in which a checkpoint is stored; None if its files are missing or damaged."""
    try:
        stored = store.stored(checkpoint_id)
        state = store.has_state(checkpoint_id)
    except (IntegrityFault, OSError):
        return None
    return StoredForm(kind=stored.form, nbytes=stored.nbytes, base=stored.base, optimizer=state)


def _definitions(home: Home, connection: Connection) -> dict[str, str]:
    """Return the digest of the current definition of everything that is measured, by name."""
    settings, model_digest = load_settings(home.config_file), queries.model_digest(connection)
    prompts = ability_prompts(settings, model_digest)
    return definitions(model_identity.behaviours_of(home, model_digest), settings, prompts)


def _with_guards(home: Home, connection: Connection, rows: Iterable[AnyBehaviour]) -> list[AnyBehaviour]:
    """Return the rows with the counter-behaviours marked, each after the behaviour that it guards."""
    known = model_identity.behaviours_of(home, queries.model_digest(connection))
    marked = [
        replace(row, counter_of=known[row.name].counter_of if row.name in known else None) for row in rows
    ]
    return sorted(marked, key=lambda row: (row.counter_of or row.name, row.counter_of is not None))


def _heads(home: Home) -> tuple[Heads | None, str | None]:
    """Return the numbers of attention heads of the home's model, or None and the reason why not.

    The second value is None if there is no such reason.
    """
    try:
        counts = attention_heads(model_directory(home))
    except (ConfigError, GateRefused) as error:
        return None, f"attention heads cannot be separated: {error}"
    if counts is None:
        return None, "the configuration of this model names no heads"
    return Heads(query=counts[0], key_value=counts[1]), None


def _weights(tensors: list[Change], missing: list[str]) -> WeightChanges:
    """Return the changes of the weights in all, and by layer, kind and head; of heads, the largest first.

    Args:
        tensors: The changes of the tensors and of their heads.
        missing: Names of the tensors that could not be compared.
    """
    layers, kinds = summed(tensors, "layer"), summed(tensors, "kind")
    by_head = [
        HeadChange(
            layer=change.layer, kind=change.kind, head=number, tensor=change.name, **vars(extent.figures)
        )
        for change in tensors
        for number, extent in enumerate(change.heads)
    ]
    inside = sorted(layer for layer in layers if isinstance(layer, int))
    order = [*inside, *([None] if None in layers else [])]
    return WeightChanges(
        whole=sum((change.extent for change in tensors), Extent()).figures,
        layers=[LayerChange(layer=layer, **vars(layers[layer].figures)) for layer in order],
        kinds=[KindChange(kind=kind, **vars(kinds[kind].figures)) for kind in sorted(map(str, kinds))],
        heads=sorted(by_head, key=lambda row: -(row.relative or 0.0)),
        only_in_one=missing,
    )
