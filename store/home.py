"""A home: the folder with everything that Nightschool stores, and the lock on this folder.

    config.toml  token  chat-token  ledger.db  checkpoints/  behaviours/  inbox/  readout/  logs/
    service.lock

Sockets and the shared weights are in the run directory, which is in memory. Its name depends on the home
alone, so that a restarted service finds and removes the files of a killed one. If somebody else has taken
that name, the run directory is in the home.

Invariant: a process that changes a home holds its lock.
"""

import fcntl
import hashlib
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import IO

from corpus.behaviour import SHIPPED, Behaviour, load
from corpus.errors import HomeLocked, NoHome
from store.files import private
from store.files.durable import make_folder, new_file, sync_directory

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
"""Number of attempts to take the lock, and the seconds between them. Another command that only checks whether
the home is locked takes the lock for a moment."""
_FOLDERS = ("checkpoints", "behaviours", "inbox", "logs")


@dataclass(frozen=True)
class Home:
    """The paths of one home."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The configuration file."""
        return self.path / "config.toml"

    @property
    def token_file(self) -> Path:
        """The file of the bearer token for everything; only the home's owner may read it."""
        return self.path / "token"

    @property
    def chat_token_file(self) -> Path:
        """The file of the bearer token for chats and their receipts alone."""
        return self.path / "chat-token"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoint files."""
        return self.path / "checkpoints"

    @property
    def inbox(self) -> Path:
        """The folder whose logs are always read."""
        return self.path / "inbox"

    @property
    def run_dir(self) -> Path:
        """The folder of sockets and shared weights, in memory.

        Its path is short, because the path of a socket has at most 107 bytes.
        """
        return self._in_memory("", "run")

    def _in_memory(self, ending: str, instead: str) -> Path:
        """Return a folder of this home in memory, or the one in the home if somebody else took its name."""
        digest = hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:12]
        place = memory() / f"nightschool-{os.getuid()}-{digest}{ending}"
        return self.path / instead if private.is_taken(place) else place

    @property
    def served_dir(self) -> Path:
        """The folder of the weights that are shared with a user's own vLLM; it outlives a service."""
        return self._in_memory("-served", "run-served")

    @property
    def control_socket(self) -> Path:
        """The socket of a running service."""
        return self.run_dir / "service.sock"

    def token(self) -> str:
        """Return the bearer token for everything."""
        return self.token_file.read_text().strip()

    def chat_token(self) -> str:
        """Return the bearer token for chats and their receipts alone."""
        return self.chat_token_file.read_text().strip()

    def behaviours(self, *, shipped: bool) -> dict[str, Behaviour]:
        """Return the behaviours that the user declared in this home, by name.

        Args:
            shipped: Whether to add the shipped behaviours, which are about the shipped model's world.
        """
        return load([*([SHIPPED] if shipped else []), self.path / "behaviours"])


def default_path() -> Path:
    """Return the path of the home that this platform's conventions give."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "nightschool"
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "nightschool"


def locate(option: Path | None) -> Home:
    """Return the home that the user named, whether it exists or not.

    Args:
        option: The path given by --home; None for NIGHTSCHOOL_HOME or, without it, the default path.
    """
    return Home(Path(option or os.environ.get("NIGHTSCHOOL_HOME") or default_path()).expanduser().absolute())


def find(option: Path | None) -> Home:
    """Return the home that the user named, as `locate` does; raise NoHome if it does not exist."""
    home = locate(option)
    if not home.config_file.is_file() or not home.token_file.is_file():
        raise NoHome(
            f"there is no Nightschool home at {home.path}: run `nightschool init` first, "
            "or name another one (--home, NIGHTSCHOOL_HOME)"
        )
    return home


def create(option: Path | None, more: str = "") -> Home:
    """Make a home with its folders, token and configuration, and return it; existing files stay.

    Args:
        option: As in `locate`.
        more: Text for the end of a new configuration.
    """
    home = locate(option)
    make_folder(home.path, 0o700)
    for name in _FOLDERS:
        make_folder(home.path / name, 0o700)
    for file in (home.token_file, home.chat_token_file):
        if not file.exists() or not file.read_text().strip():  # its writer was killed
            new_token(file)
    close_to_others(home)
    if not home.config_file.exists():
        home.config_file.write_text(CONFIG + more)
    for folder in (home.path, home.path.parent):  # an earlier init may have died before it synced them
        with suppress(PermissionError):  # a parent may be open to enter and not to read
            sync_directory(folder)
    return home


def new_token(file: Path) -> str:
    """Write a new token to a file of tokens, in one step, and return it."""
    token = secrets.token_urlsafe(32)
    with new_file(file.parent, "token") as stream:
        stream.write(f"{token}\n".encode())
        stream.keep(file.name)
    return token


def token_of(home: Home, *, operations: bool, rotate: bool) -> str:
    """Return the home's token for chats, or the one for everything.

    Args:
        home: The home.
        operations: Whether to return the token for everything. A service keeps it from its start to its end,
            so it is rotated only while none runs, else HomeLocked is raised.
        rotate: Whether to make a new token first.
    """
    file = home.token_file if operations else home.chat_token_file
    with locked(home) if rotate and operations else nullcontext():
        return new_token(file) if rotate or not file.exists() else file.read_text().strip()


def close_to_others(home: Home) -> list[Path]:
    """Take from everybody else the rights on a home, its tokens, ledger and logs; return what was open.

    Raises:
        ConfigError: One of them belongs to another user.
    """
    folders = [home.path, *(home.path / name for name in (*_FOLDERS, "readout"))]
    files = [home.token_file, home.chat_token_file, home.config_file, *home.path.glob("ledger.db*")]
    files += home.inbox.glob("captured-*.jsonl")
    files += (home.path / "logs").glob("*.log")
    modes = [*((path, 0o700) for path in folders), *((path, 0o600) for path in files)]
    return [path for path, mode in modes if private.tighten(path, mode)]


def memory() -> Path:
    """Return the folder of this machine for files in memory; the one for temporary files if there is none."""
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def dead_directories(home: Home) -> list[Path]:
    """Return the run directories of this user in memory whose holders are dead, but for this home's own."""
    pattern = re.compile(rf"nightschool-{os.getuid()}-[0-9a-f]{{12}}(-served)?")
    return private.dead(memory(), pattern, but=home.run_dir)


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the home's lock during the body; raise HomeLocked if another process holds it.

    The lock of a process that dies is released.
    """
    with open(home.path / "service.lock", "a") as stream:
        for _ in range(LOCK_TRIES):
            if _take(stream):
                yield
                return
            sleep(LOCK_PAUSE_S)
    raise HomeLocked(f"another Nightschool holds {home.path}: stop it, or use it (`nightschool status`)")


def _take(stream: IO[str]) -> bool:
    """Try to lock an open file; return whether that succeeded."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(home: Home) -> bool:
    """Return whether a process holds the home now."""
    with open(home.path / "service.lock", "a") as stream:
        return not _take(stream)


@contextmanager
def run_directory(home: Home) -> Iterator[Path]:
    """Make an empty run directory for the body and remove it at the end.

    Only the process that holds the home's lock may call it.
    """
    for path in dead_directories(home):
        private.remove_own(path)
    with private.held_directory(home.run_dir) as directory:
        yield directory
