"""The watchdog of a user's own vLLM: it restores the active checkpoint when nobody else does.

A service and its trainer can be killed within an update while vLLM lives on. The kernel releases their locks,
and the header of the shared weights is still dirty. The watchdog, a thread of the process that serves the
weights, then restores the active checkpoint.

Invariant: it writes only while it holds the lock of the one writer, and after the start only while nobody
holds the home. It leaves a whole checkpoint, or the weights as they were; they stay dirty unless that
checkpoint is the active one. It reads the ledger and never writes it. This module knows nothing about vLLM.
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
from agents.model.vllm.config import PluginConfig
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

CHECK_S = 1.0
"""Seconds between two checks."""
RETRY_S = 60.0
"""Seconds until a failed restore is tried again: it reads a whole checkpoint."""

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it


def check_model(config: PluginConfig, directory: Path) -> None:
    """Raise `IntegrityFault` if the home's checkpoints are another model's; an unreadable ledger passes."""
    try:
        with glance(_url(config)) as connection:
            if connection is not None:
                _check_digest(connection, directory)
    except (SQLAlchemyError, ImportError) as error:
        log.error("nightschool: the ledger cannot be read (%s).", error)


class Watchdog:
    """Keeps the shared weights at the active checkpoint of their home while nobody else does."""

    def __init__(
        self, shared: SharedWeights, config: PluginConfig, clock: Callable[[], float] = monotonic
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._config = config
        self._store = CheckpointStore(config.home.checkpoints)
        self._retry_at = 0.0
        """When a restore may be tried again, by the clock."""

    def restore_at_start(self) -> None:
        """Serve the active checkpoint, at the start, when the shared weights are as vLLM loaded them."""
        with writer_lock(self._shared.path, wait=False) as mine:
            if mine:  # else a trainer has attached already, which does this itself
                self._shared.dirty = True
                self._try_restore(loaded=True)

    def check(self) -> None:
        """Restore the active checkpoint if an update was left unfinished."""
        if not self._shared.dirty or self._clock() < self._retry_at or is_held(self._config.home):
            return
        with writer_lock(self._shared.path, wait=False) as mine:
            if mine and self._shared.dirty:
                log.warning("nightschool: an update was left unfinished, with neither service nor trainer.")
                self._try_restore(loaded=False)

    def start(self, every: float = CHECK_S) -> Event:
        """Check at a fixed interval in a thread, until the process ends or the returned event is set."""
        ended = Event()
        Thread(target=self._run, args=(ended, every), name="nightschool watchdog", daemon=True).start()
        return ended

    def _run(self, ended: Event, every: float) -> None:
        while not ended.wait(every):
            try:
                self.check()
            except OSError as error:  # the home is gone, or out of reach for a while
                self._log_failure(error)

    def _try_restore(self, *, loaded: bool) -> None:
        """Restore, and log a failure: whatever is wrong with the home, vLLM serves on."""
        try:
            with torch.inference_mode():
                self._restore_active(loaded=loaded)
        except (NightschoolError, SQLAlchemyError, ImportError, OSError) as error:
            self._log_failure(error)

    def _log_failure(self, error: Exception) -> None:
        self._retry_at = self._clock() + RETRY_S
        served = self._shared.holds[:12] or "the weights as they are"
        log.error(
            "nightschool: the active checkpoint cannot be restored: %s. Serving on with %s.", error, served
        )

    def _restore_active(self, *, loaded: bool) -> None:
        """Make the shared weights those of the active checkpoint, or of a whole one, and then raise.

        loaded: whether they are still as vLLM loaded them.
        """
        shared = self._shared
        with glance(_url(self._config)) as connection:
            if connection is None or not queries.checkpoints(connection):
                if not loaded:
                    raise IntegrityFault(f"{self._config.home.path} has no checkpoint any more; restart vLLM")
                shared.dirty = False  # no checkpoint was ever kept: the loaded weights are the right ones
                return
            _check_digest(connection, Path(shared.model))
            active = queries.active(connection)
            line = history.ancestry(connection, active.id)
        if loaded and active.number == 0 and self._has_weights(active.weights_sha256):
            shared.holds, shared.dirty = active.id, False
        else:
            self._restore(line, unfinished=not loaded)
        log.info("nightschool: serving checkpoint %s (number %d).", active.id[:12], active.number)

    def _restore(self, line: list[str], *, unfinished: bool) -> None:
        """Restore the first checkpoint of `line`.

        If it is damaged and the weights are those of an unfinished update, restore the next whole one, then
        raise.
        """
        try:
            restore(self._shared, self._store, line[0], clean=True, force=True)
        except IntegrityFault:
            for parent in line[1:] if unfinished else ():
                try:
                    restore(self._shared, self._store, parent, clean=False)
                    break
                except IntegrityFault:
                    continue
            raise

    def _has_weights(self, weights_sha256: str) -> bool:
        """Return whether the shared weights have this digest: they are hashed in memory, no file is read."""
        hashed = hashlib.sha256()
        for piece in pieces(raw_weights(self._shared)):
            hashed.update(piece)
        return hashed.hexdigest() == weights_sha256


def _check_digest(connection: Connection, directory: Path) -> None:
    """Raise `IntegrityFault` if the ledger records another model than the one in this directory."""
    recorded = queries.model_digest(connection)
    if recorded and recorded != digest(directory):
        raise IntegrityFault(
            f"this home learns with another model than {directory}: serve that one, "
            "or make a home for this one (NIGHTSCHOOL_HOME, `nightschool init`)"
        )


def _url(config: PluginConfig) -> str:
    return database_url(config.home.path, config.database)
