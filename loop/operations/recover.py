"""`recover`: enter the checkpoints on the disk in a ledger that has lost them.

Invariant: nothing is deleted, and one transaction makes the whole change. The ledger may be empty, or an
older copy of the lost one. Conversations, pairs and nights that only the lost ledger had do not come back.
"""

from pathlib import Path

import anyio.to_thread

from agents.model.describe import digest
from corpus.errors import GateRefused, IntegrityFault, UnknownId
from loop.config import load_settings
from loop.night import gc
from loop.operations.init import model_of
from loop.operations.results.checkpoints import Recovered
from store import belonging, queries
from store.checkpoints.store import CheckpointStore
from store.home import find, locked
from store.ledger.db import Ledger, database_url
from store.nights import rebuild
from store.nights.rebuild import Found


async def recover(option: Path | None, *, active: str, trash: bool) -> Recovered:
    """Rebuild checkpoints, lineage and pointer of a home's ledger, and return what was entered.

    Args:
        option: The home that the user names; None for the default one.
        active: The checkpoint to make active, or the first characters of its id; "" for the one that was.
        trash: Whether to put the files in the trash back first.

    Raises:
        GateRefused: The ledger is another home's, or there is no intact checkpoint.
    """
    home = find(option)
    settings, store = load_settings(home.config_file), CheckpointStore(home.checkpoints)
    with locked(home):
        ledger = Ledger(database_url(home.path, settings.database))
        try:
            problem = await ledger.read(belonging.problem, store)
            if problem is not None and problem.kind == "foreign":
                raise GateRefused(problem.text)
            back = await anyio.to_thread.run_sync(store.put_back) if trash else []
            found, damaged = await anyio.to_thread.run_sync(_found, store)
            owner = belonging.owner_of(store)
            model = digest(await model_of(settings, home))
            rows = await ledger.write(rebuild.enter, found, owner, active, model)
            await gc.agree(store, ledger)
            pointed = await ledger.read(queries.active)
        finally:
            ledger.close()
    return Recovered(
        active=pointed.id,
        number=pointed.number,
        entered=[row.id for row in rows],
        damaged=damaged,
        put_back=len(back),
        known=owner is not None,
    )


def _found(store: CheckpointStore) -> tuple[list[Found], list[str]]:
    """Return the checkpoints on the disk, and the ids of those whose manifest or weights are damaged."""
    found, damaged = [], []
    for name in store.ids():
        try:
            manifest = store.manifest(name)
        except (IntegrityFault, UnknownId):
            damaged.append(name)
            continue
        is_intact = not store.verify([name])
        damaged += [] if is_intact else [name]
        found.append(
            Found(
                id=name,
                parent=manifest.parent,
                weights_sha256=manifest.weights,
                written=(store.directory / f"{name}.json").stat().st_mtime,
                intact=is_intact,
            )
        )
    return found, damaged
