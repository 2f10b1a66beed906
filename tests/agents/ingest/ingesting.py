"""Ingest from code without an event loop."""

from pathlib import Path

import anyio

from agents.ingest.read import ingest_paths
from agents.ingest.report import IngestReport
from store.ledger.db import Ledger


def ingest_path(ledger: Ledger, path: Path, format: str | None = None) -> IngestReport:
    """Read one file or folder into the ledger."""
    return anyio.run(ingest_paths, ledger, [path], format)
