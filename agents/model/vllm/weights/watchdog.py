"""What vLLM serves when nobody else sees to it: the active checkpoint, at the start and after an update was left.

A service and its trainer can be killed in mid-update while vLLM lives on. Their locks go with them, and the mapping
says that it is dirty: then the guardian, a thread of the process that serves the weights, puts the active checkpoint
back.

Invariant: it writes only as the mapping's one writer, and after the start only while nobody holds the home. What it
leaves is a whole checkpoint or what was there; the mapping stays dirty unless that is the active one. Reads the
ledger, never writes it. Knows no vLLM.
"""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import torch
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from agents.model.describe import digest
from agents.model.vllm.configured import Configured
from agents.model.weights.header import writer_lock
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights, restore
from corpus.errors import IntegrityFault, NightschoolError
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import is_held
from store.ledger.db import database_url, glance
from store.nights import history
from store.tensors.raw import pieces

LOOK_S = 1.0
"""Time between two looks."""
RETRY_S = 60.0
"""Time until what failed is tried again: it reads a whole checkpoint."""

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it


def check_model(found: Configured, directory: Path) -> None:
    """Raise `IntegrityFault` if the home's checkpoints are another model's; unread, its ledger is no reason yet."""
    try:
        with glance(_url(found)) as connection:
            if connection is not None:
                _check_digest(connection, directory)
    except (SQLAlchemyError, ImportError) as fault:
        log.error("nightschool: the ledger cannot be read (%s).", fault)


class Watchdog:
    """Keeps one mapping at the active checkpoint of its home while nobody else does."""

    def __init__(
        self, shared: SharedWeights, found: Configured, clock: Callable[[], float] = monotonic
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._found = found
        self._store = CheckpointStore(found.home.checkpoints)
        self._again = 0.0
        """When it may be tried again, by the clock."""

    def begin(self) -> None:
        """Serve what was last kept; at the start, when the mapping holds what vLLM has loaded."""
        with writer_lock(self._shared.path, wait=False) as mine:
            if mine:  # else a trainer has attached already, which does this itself
                self._shared.dirty = True
                self._try(new=True)

    def look(self) -> None:
        """Put the active checkpoint back if an update was left half done."""
        if not self._shared.dirty or self._clock() < self._again or is_held(self._found.home):
            return
        with writer_lock(self._shared.path, wait=False) as mine:
            if mine and self._shared.dirty:
                log.warning(
                    "nightschool: an update was left half done, and neither service nor trainer is there."
                )
                self._try(new=False)

    def watch(self, every: float = LOOK_S) -> Event:
        """Look every so many seconds in a thread of its own, for as long as the process lives, or until it is set."""
        ended = Event()
        Thread(target=self._watch, args=(ended, every), name="nightschool guardian", daemon=True).start()
        return ended

    def _watch(self, ended: Event, every: float) -> None:
        while not ended.wait(every):
            try:
                self.look()
            except OSError as fault:  # the home has gone, or is out of reach for a while
                self._failed(fault)

    def _try(self, *, new: bool) -> None:
        """The boundary: whatever is wrong with the home, vLLM serves on."""
        try:
            with torch.inference_mode():
                self._settle(new=new)
        except (NightschoolError, SQLAlchemyError, ImportError, OSError) as fault:
            self._failed(fault)

    def _failed(self, fault: Exception) -> None:
        self._again = self._clock() + RETRY_S
        held = self._shared.holds[:12] or "what was there"
        log.error("nightschool: the active checkpoint cannot be put in: %s. Serving on with %s.", fault, held)

    def _settle(self, *, new: bool) -> None:
        """Have the mapping hold the active checkpoint, or a whole one and a fault. `new`: it holds what was loaded."""
        shared = self._shared
        with glance(_url(self._found)) as connection:
            if connection is None or not queries.checkpoints(connection):
                if not new:
                    raise IntegrityFault(f"{self._found.home.path} has no checkpoint any more; restart vLLM")
                shared.dirty = False  # nothing was ever kept: what was loaded is what there is
                return
            _check_digest(connection, Path(shared.model))
            active = queries.active(connection)
            line = history.ancestry(connection, active["id"])
        if new and active["number"] == 0 and self._is_loaded(active["weights_sha256"]):
            shared.holds, shared.dirty = active["id"], False
        else:
            self._restore(line, half_done=not new)
        log.info("nightschool: serving checkpoint %s (number %d).", active["id"][:12], active["number"])

    def _restore(self, line: list[str], *, half_done: bool) -> None:
        """Put in the first of `line`. If it is damaged and half an update is there, the next one that is whole."""
        try:
            restore(self._shared, self._store, line[0], clean=True, force=True)
        except IntegrityFault:
            for parent in line[1:] if half_done else ():
                try:
                    restore(self._shared, self._store, parent, clean=False)
                    break
                except IntegrityFault:
                    continue
            raise

    def _is_loaded(self, weights_sha256: str) -> bool:
        """Whether the mapping has these weights already: it is hashed in memory, the disk is not read."""
        found = hashlib.sha256()
        for piece in pieces(raw_weights(self._shared)):
            found.update(piece)
        return found.hexdigest() == weights_sha256


def _check_digest(connection: Connection, directory: Path) -> None:
    recorded = queries.model_digest(connection)
    if recorded and recorded != digest(directory):
        raise IntegrityFault(
            f"this home learns with another model than {directory}: serve that one, "
            "or make a home for this one (NIGHTSCHOOL_HOME, `nightschool init`)"
        )


def _url(found: Configured) -> str:
    return database_url(found.home.path, found.database)
