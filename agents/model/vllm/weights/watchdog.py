"""The watchdog of a user's own vLLM, which restores the active checkpoint if service and trainer are gone.

A service and its trainer can be killed within an update while vLLM goes on serving. The kernel then releases
their locks, but the header of the shared weights still says dirty. The watchdog, a thread of the process that
serves the weights, then restores the active checkpoint.

Invariant: the watchdog writes only while it holds the lock of the one writer and, after vLLM's start, only
while no service holds the home. It leaves the weights of a whole checkpoint, or the weights as they were;
they stay dirty unless they are the active checkpoint's. It reads the ledger and never writes it. This module
knows nothing about vLLM.
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
"""Seconds until a failed restore is tried again; they are many, because each attempt reads a checkpoint."""

log = logging.getLogger("vllm.nightschool")  # below vLLM's own logger, so that its handler prints it


def check_model(config: PluginConfig, directory: Path) -> None:
    """Raise `IntegrityFault` if the home's checkpoints are those of another model than this directory's.

    If the ledger cannot be read, the check is left out and the reason is logged.
    """
    try:
        with glance(_url(config)) as connection:
            if connection is not None:
                _check_digest(connection, directory)
    except (SQLAlchemyError, ImportError) as error:
        log.error("nightschool: the ledger cannot be read (%s).", error)


class Watchdog:
    """A thread that restores the home's active checkpoint when an update was left unfinished."""

    def __init__(
        self, shared: SharedWeights, config: PluginConfig, clock: Callable[[], float] = monotonic
    ) -> None:
        self._shared = shared
        self._clock = clock
        self._config = config
        self._store = CheckpointStore(config.home.checkpoints)
        self._retry_at = 0.0
        """Time of the clock before which no restore is tried."""

    def restore_at_start(self) -> None:
        """Restore the active checkpoint right after vLLM has loaded its own weights."""
        with writer_lock(self._shared.path, wait=False) as mine:
            if mine:  # else a trainer has attached already, and restores the checkpoint itself
                self._shared.dirty = True
                self._try_restore(loaded=True)

    def check(self) -> None:
        """Restore the active checkpoint if an update was left unfinished and no service or trainer runs."""
        if not self._shared.dirty or self._clock() < self._retry_at or is_held(self._config.home):
            return
        with writer_lock(self._shared.path, wait=False) as mine:
            if mine and self._shared.dirty:
                log.warning("nightschool: an update was left unfinished, with neither service nor trainer.")
                self._try_restore(loaded=False)

    def start(self, every: float = CHECK_S) -> Event:
        """Start a thread that checks every `every` seconds, until the process ends or the event is set.

        Returns:
            The event, which stops the thread when it is set.
        """
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
        """Restore the active checkpoint; log a failure and return, so that vLLM goes on serving in any case.

        `loaded` is whether the weights are still as vLLM loaded them.
        """
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
        """Make the shared weights those of the active checkpoint; raise an error if that is not possible.

        loaded: whether the weights are still as vLLM loaded them. Without checkpoints they then stay so.
        """
        shared = self._shared
        with glance(_url(self._config)) as connection:
            if connection is None or not queries.checkpoints(connection):
                if not loaded:
                    raise IntegrityFault(f"{self._config.home.path} has no checkpoint any more; restart vLLM")
                shared.dirty = False  # no checkpoint was ever kept, so the loaded weights are the active ones
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
        """Restore the active checkpoint; if it is damaged, raise `IntegrityFault`.

        Args:
            line: Ids of the active checkpoint, of its parent, and so on.
            unfinished: Whether the weights are those of an unfinished update. If the active checkpoint is
                damaged, its nearest undamaged ancestor is then restored before the error is raised.
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
        """Return whether the shared weights have this digest; they are hashed in memory."""
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
