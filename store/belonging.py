"""Whether a ledger and the checkpoint files belong together: a mark in both, compared before a sweep.

The ledger has its home's id and a generation number in its table `meta`. `checkpoints/owner` has the same
two, and says which checkpoints are kept and which one is active. Every start and every night raises the
generation, first in the ledger and then in the file. So a ledger with another id belongs to other files, and
one with a lower number is older than these files: a copy from before a night that they hold.

Invariant: files are swept only after `problem_of` has found none. The comparison is pure. The file `owner`
never decides what is active while there is a ledger; `recover` uses it where the ledger is lost.
"""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Literal

from sqlalchemy import Connection

from corpus.errors import IntegrityFault
from store import queries
from store.checkpoints.store import CheckpointStore
from store.files import durable
from store.ledger import meta

OWNER = "owner"
"""Name of the file in the folder of the checkpoints."""
CRASHED = 1
"""Most manifests that a crash leaves without a row: a night writes one and then its row."""

Kind = Literal["lost", "foreign", "older"]


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The content of the file `owner`: the ledger to which the checkpoint files belong."""

    home: str
    """Id of the home, 32 hexadecimal characters."""
    generation: int
    """How often ledger and files had agreed when the file was written."""
    active: str
    """Id of the checkpoint that was active then."""
    kept: list[str]
    """Ids of the checkpoints that verdicts had kept, oldest first."""


@dataclass(frozen=True, kw_only=True)
class LedgerMark:
    """What a ledger says of the files that belong to it."""

    home: str
    """Id of its home; "" before the first `agree`."""
    generation: int
    named: frozenset[str]
    """Ids of all its checkpoints, pruned ones included."""
    active: str
    """Id of the active checkpoint; "" if there is none."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Why a ledger and the checkpoint files do not belong together, and what to do."""

    kind: Kind
    """`lost`: the ledger is empty; `foreign`: it is another home's; `older`: the files have later nights."""
    text: str
    """The message for the user."""


def problem_of(
    ledger: LedgerMark, owner: Owner | None, on_disk: frozenset[str], place: str
) -> Problem | None:
    """Return why a ledger and checkpoint files do not belong together; None if they do.

    Args:
        ledger: The mark of the ledger.
        owner: The mark of the files; None if there is no such file.
        on_disk: Ids of the checkpoints whose manifest is among the files.
        place: The folder of the files, for the message.
    """
    unnamed = len(on_disk - ledger.named)
    if not ledger.named and (owner is not None or unnamed > CRASHED):
        return Problem(
            kind="lost",
            text=f"{place} has {unnamed} checkpoints, and the ledger is empty: it is lost, or `database` "
            "names another one. Nothing was changed. Put the ledger back, or rebuild its checkpoints from "
            "the files with `nightschool recover`",
        )
    if owner is not None and ledger.home and ledger.home != owner.home:
        return Problem(
            kind="foreign",
            text=f"the ledger is another home's than the checkpoints in {place}: nothing was changed. Set "
            "`database` in config.toml back to this home's ledger, or, if that is lost, to an empty one and "
            "run `nightschool recover`",
        )
    if unnamed > CRASHED or (unnamed and owner is not None and ledger.generation < owner.generation):
        return Problem(
            kind="older",
            text=f"the ledger is older than the checkpoints in {place}, of which it does not know {unnamed}: "
            "none of their files is swept. Put the newer ledger back, or enter what is on the disk with "
            "`nightschool recover`",
        )
    return None


def problem(connection: Connection, store: CheckpointStore) -> Problem | None:
    """Return why this ledger and these files do not belong together; None if they do."""
    on_disk = frozenset(store.ids())
    return problem_of(ledger_mark(connection), owner_of(store), on_disk, str(store.directory))


def require_own(found: Problem | None) -> None:
    """Raise IntegrityFault unless the files belong to the ledger, or to a newer copy of it.

    Args:
        found: What `problem` has found.
    """
    if found is not None and found.kind != "older":
        raise IntegrityFault(found.text)


def owner_of(store: CheckpointStore) -> Owner | None:
    """Return the mark of the checkpoint files; None if there is none, or if it cannot be read."""
    try:
        fields = json.loads((store.directory / OWNER).read_text())
        return Owner(**fields)
    except (OSError, ValueError, TypeError):
        return None


def ledger_mark(connection: Connection) -> LedgerMark:
    """Return the mark of a ledger."""
    rows = queries.checkpoints(connection)
    return LedgerMark(
        home=meta.get(connection, "home"),
        generation=int(meta.get(connection, "generation") or 0),
        named=frozenset(row.id for row in rows),
        active=queries.active(connection).id if rows else "",
    )


def present_owner(connection: Connection) -> Owner:
    """Return the mark that the checkpoint files have if they and the ledger agree."""
    mark = ledger_mark(connection)
    return Owner(
        home=mark.home,
        generation=mark.generation,
        active=mark.active,
        kept=[row.id for row in queries.kept(connection)],
    )


def next_generation(connection: Connection, before: Owner | None) -> Owner:
    """Raise the generation of a ledger that has checkpoints, and return the mark for its files.

    Args:
        connection: The ledger, in a transaction that writes.
        before: The mark that the files have; None without one.
    """
    now = present_owner(connection)
    owner = replace(
        now,
        home=now.home or (before.home if before else secrets.token_hex(16)),
        generation=max(now.generation, before.generation if before else 0) + 1,
    )
    meta.put(connection, "home", owner.home)
    meta.put(connection, "generation", str(owner.generation))
    return owner


def write_owner(store: CheckpointStore, owner: Owner) -> None:
    """Write the mark of the checkpoint files; call it once the ledger's own is committed."""
    with durable.new_file(store.directory, "owner") as file:
        file.write(json.dumps(asdict(owner), sort_keys=True).encode() + b"\n")
        file.keep(OWNER)
