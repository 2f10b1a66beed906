"""Work of kind `settle`, the last of every night: serve the active checkpoint and close the night.

Invariant: the night is closed only once the shared weights hold the active checkpoint and are marked clean.
"""

from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from corpus.aliases import Progress
from loop.night import again, gc
from loop.night.context import NightContext
from store import queries
from store.nights import history
from store.queue.outcome import Outcome
from store.queue.work import Work


@dataclass(frozen=True)
class Finalize:
    """The stage that serves the active checkpoint, removes unneeded files, and closes the night."""

    context: NightContext

    async def handle(self, item: Work, report: Progress) -> Outcome:
        """Return an outcome that closes the night; by then the active checkpoint is served."""
        context = self.context
        active = await context.ledger.read(queries.active)
        await context.trainer.rollback(active.id, settled=True)
        await gc.remove_leftovers(context.store)
        await gc.drop_states(context.store, context.ledger, context.settings.checkpoints.optimizer_states)
        await gc.agree(context.store, context.ledger)
        close = partial(self._close, night_id=item.night_id)
        return Outcome(decision="settled", then=close, facts={"checkpoint": active.id})

    def _close(self, connection: Connection, night_id: str) -> None:
        """Close the night; begin another if its update is to be made again without one source."""
        history.close_night(connection, night_id=night_id)
        again.begin(connection, self.context, night_id)
