"""A home: the folder that holds everything Nightschool knows, and the lock on it.

    config.toml  token  ledger.db  checkpoints/  behaviours/  inbox/  readout/  logs/  service.lock

Sockets and the shared mapping live in a run directory in memory, named after the home, so that a restart
finds and sweeps what a killed service left. Invariant: whoever changes a home holds its lock.
"""

import fcntl
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import IO

from corpus.behaviour import SHIPPED, Behaviour, load
from corpus.errors import HomeLocked, NoHome
from store.files.durable import make_folder, sync_directory

CONFIG = """\
# Nightschool's configuration. `nightschool config` prints what is in effect, with every default.

[schedule]
# When the model may learn by itself, local time. On a server with users: ["01:00-05:30"].
windows = ["00:00-24:00"]
# Wait until no user has asked for this long; 0 does not wait.
idle_minutes = 0

[ingest]
# Folders whose *.jsonl logs are followed as they grow, beside inbox/ in this home.
watch = []
"""
LOCK_TRIES, LOCK_PAUSE_S = 4, 0.05
"""A command that only looks whether a home is held holds it for a moment itself."""
_FOLDERS = ("checkpoints", "behaviours", "inbox", "logs")


@dataclass(frozen=True)
class Home:
    """Where things are."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def token_file(self) -> Path:
        return self.path / "token"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def inbox(self) -> Path:
        return self.path / "inbox"

    @property
    def run_dir(self) -> Path:
        """Sockets and the mapping: in memory, with a short path (a socket's name may have 107 bytes)."""
        memory = Path("/dev/shm")
        base = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        digest = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:12]
        return base / f"nightschool-{os.getuid()}-{digest}"

    @property
    def served_dir(self) -> Path:
        """Where a user's own vLLM keeps the mapping: beside the run directory, for it outlives a service."""
        return self.run_dir.with_name(f"{self.run_dir.name}-served")

    @property
    def control_socket(self) -> Path:
        """Where a running service listens."""
        return self.run_dir / "service.sock"

    def token(self) -> str:
        """The bearer token of this home."""
        return self.token_file.read_text().strip()

    def behaviours(self) -> dict[str, Behaviour]:
        """The shipped behaviours and those that the user declared."""
        return load([SHIPPED, self.path / "behaviours"])


def default_path() -> Path:
    """The platform's place for a program's data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "nightschool"
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "nightschool"


def locate(option: Path | None) -> Home:
    """The home that was asked for: --home, else NIGHTSCHOOL_HOME, else the platform's place."""
    return Home(Path(option or os.environ.get("NIGHTSCHOOL_HOME") or default_path()).expanduser().absolute())


def find(option: Path | None) -> Home:
    """The home that was asked for, which must be there."""
    home = locate(option)
    if not home.config_file.is_file() or not home.token_file.is_file():
        raise NoHome(f"there is no Nightschool home at {home.path}: run `nightschool init` first")
    return home


def create(option: Path | None, more: str = "") -> Home:
    """Make the folders, the token and the configuration, with `more` at its end; what is there already stays."""
    home = locate(option)
    make_folder(home.path, 0o700)
    for folder in _FOLDERS:
        make_folder(home.path / folder, 0o700)
    if not home.token_file.exists() or not home.token_file.read_text().strip():  # killed while it was written
        with open(os.open(home.token_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
    if not home.config_file.exists():
        home.config_file.write_text(CONFIG + more)
    for place in (home.path, home.path.parent):  # whoever made some of it may have died before it was to last
        with suppress(PermissionError):  # a parent that may be entered and not read
            sync_directory(place)
    return home


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the home: one service, or one command without a service, at a time. Dies with the process."""
    with open(home.path / "service.lock", "a") as stream:
        for _ in range(LOCK_TRIES):
            if _take(stream):
                yield
                return
            sleep(LOCK_PAUSE_S)
    raise HomeLocked(f"another Nightschool holds {home.path}: stop it, or use it (`nightschool status`)")


def _take(stream: IO[str]) -> bool:
    """Try to lock an open file."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(home: Home) -> bool:
    """Whether somebody holds the home now."""
    with open(home.path / "service.lock", "a") as stream:
        return not _take(stream)


@contextmanager
def run_directory(home: Home) -> Iterator[Path]:
    """The run directory, swept of what a killed service left, and removed at the end; for the holder only."""
    directory = home.run_dir
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
