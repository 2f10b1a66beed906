"""The text in a log file, whatever it is packed in: compressed, in another encoding, in an archive.

Invariant: opening a path never blocks, whatever it names (a pipe, for example, would wait for a writer), and
only regular files are read. The text is decoded as it is read, so no file is in memory as a whole. A fault in
the packing raises `LogRefused` with the cure. This module knows nothing about log formats or the ledger.
"""

import bz2
import codecs
import gzip
import hashlib
import io
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from agents.ingest.database import MAGIC, rows_of
from corpus.errors import LogRefused
from corpus.lines import BOM, CHUNK, LATIN1, UTF8
from corpus.scrub.patterns import scrub_name

HEAD = 2**16
"""Number of bytes that are read from the beginning of a file when it is opened."""

_PACKINGS: tuple[tuple[bytes, str, Callable[[BinaryIO], BinaryIO]], ...] = (
    (b"\x1f\x8b", "gzip", lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw))),
    (
        b"\x28\xb5\x2f\xfd",
        "zstd",
        lambda raw: cast(
            BinaryIO,
            zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False),
        ),
    ),
    (b"BZh", "bzip2", lambda raw: cast(BinaryIO, bz2.BZ2File(raw))),
    (b"\xfd7zXZ\0", "xz", lambda raw: cast(BinaryIO, lzma.LZMAFile(raw))),
)
"""First bytes, name, and decompressor of each packing that is read."""

PACKINGS = tuple(name for _, name, _ in _PACKINGS)
"""The names of the packings that are read, beside zip archives."""

_FOREIGN = (
    (b"PAR1", "a Parquet table: export it as JSON Lines (in Python: DataFrame.to_json(..., lines=True))"),
    (b"ARROW1", "an Arrow table: export it as JSON Lines (in Python: Dataset.to_json)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"%PDF", "a PDF document, not a log"),
)
"""First bytes of files that are refused, each with what they are and the cure."""

_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_FAULTS = (
    gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError, lzma.LZMAError, zipfile.BadZipFile,
    NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip


@dataclass(kw_only=True)
class OpenLog:
    """A log file that is open for reading, or a file in an archive."""

    path: str
    """The path as it is stored and reported, see `stored_path`."""
    stream: BinaryIO
    """The bytes of the file as they are on the disk."""
    size: int
    """Size in bytes when the file was opened. Bytes that are added later are read the next time."""
    head: bytes
    """The first HEAD bytes of the text, in UTF-8 unless `encoding` is LATIN1."""
    inode: str
    """Device and inode numbers, as DEVICE:INODE."""
    compression: str = ""
    """Name of the packing; "" for none."""
    encoding: str = UTF8
    """Encoding of the text on the disk."""
    again: Callable[[], BinaryIO]
    """Returns the text from its beginning, in UTF-8 unless `encoding` is LATIN1."""

    @property
    def identity(self) -> str:
        """Device, inode and a digest of the first line, as far as it lies in `head`."""
        return f"{self.inode}:{digest(self.head.partition(self.ending)[0])}"

    @property
    def ending(self) -> bytes:
        """The line end of the file: a newline, or a carriage return if there is no newline."""
        return b"\r" if b"\n" not in self.head and b"\r" in self.head else b"\n"

    @property
    def plain(self) -> bool:
        """Whether offsets in the text are offsets in the file, so that reading can resume at one."""
        return not self.compression and self.encoding in (UTF8, LATIN1)

    def whole_digest(self) -> str:
        """Return a digest of all bytes of the file."""
        self.stream.seek(0)
        sum = hashlib.sha256()
        while chunk := self.stream.read(CHUNK):
            sum.update(chunk)
        return sum.hexdigest()[:16]


def digest(data: bytes) -> str:
    """Return the first sixteen hex characters of the SHA-256 digest of these bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def stored_path(path: Path) -> str:
    """Return the path as it is stored and reported: absolute, without secrets, in storable characters."""
    return scrub_name(os.path.abspath(path))


def opened(path: Path) -> Iterator[OpenLog]:
    """Open a log and yield it; for an archive, yield each log in it.

    Anything but a readable regular file raises `LogRefused`. Each log is closed when the next is asked for.
    """
    archive, member = _in_archive(path)
    log = open_log(archive)
    with closing(log.stream):
        if log.compression != "zip":
            yield log
            return
        with _guarded("zip"), zipfile.ZipFile(log.stream) as files:
            names = [member] if member else sorted(files.namelist())
            for name in names:
                if member or _is_log_name(name):
                    yield _member(files, name, archive, log)


def open_log(path: Path) -> OpenLog:
    """Open a file and return it; anything but a readable regular file raises `LogRefused`.

    For an archive, `compression` says that it is one, and there is no text.
    """
    try:
        _check_regular(path.stat().st_mode)  # before the open: opening a device may have an effect
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LogRefused(unreadable(error)) from None
    stream = os.fdopen(descriptor, "rb")
    try:
        status = os.fstat(descriptor)
        _check_regular(status.st_mode)  # again: another file may be at the path by now
        inode = f"{status.st_dev}:{status.st_ino}"
        if os.pread(descriptor, len(MAGIC), 0) == MAGIC:
            stream.close()
            return _database(path, status.st_size, inode)
        return _unpacked(stream, status.st_size, stored_path(path), inode)
    except OSError as error:
        stream.close()
        raise LogRefused(unreadable(error)) from None
    except LogRefused:
        stream.close()
        raise


def archived(path: Path) -> list[str]:
    """Return the names of the files in an archive that are no logs; [] for any other file."""
    try:
        log = open_log(path)
    except LogRefused:
        return []
    with closing(log.stream):
        if log.compression != "zip":
            return []
        try:
            with zipfile.ZipFile(log.stream) as files:
                return [name for name in files.namelist() if not _is_log_name(name) and name[-1:] != "/"]
        except _FAULTS:
            return []


def _is_log_name(name: str) -> bool:
    return name.lower().endswith((".json", ".jsonl", ".ndjson", ".af")) and "__MACOSX" not in name


def _member(files: zipfile.ZipFile, name: str, archive: Path, log: OpenLog) -> OpenLog:
    """Return a file of an archive as an open log."""

    def again() -> BinaryIO:
        return cast(BinaryIO, files.open(name))

    with _guarded("zip"), again() as member:
        head = member.read(HEAD)
    path = stored_path(archive / name)
    return _text(path, log.stream, log.size, head, log.inode, "zip", again)


def _in_archive(path: Path) -> tuple[Path, str]:
    """Return the file that a path names and, if that is an archive on the way, the name inside it."""
    for parent in path.parents:
        if parent.suffix.lower() == ".zip" and parent.is_file():
            return parent, str(path.relative_to(parent))
    return path, ""


def _unpacked(stream: BinaryIO, size: int, path: str, inode: str) -> OpenLog:
    """Return the text of a file, by its first bytes."""
    head = os.pread(stream.fileno(), HEAD, 0)
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise LogRefused(what)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return OpenLog(
            path=path,
            stream=stream,
            size=size,
            head=b"",
            inode=inode,
            compression="zip",
            again=lambda: stream,
        )
    for magic, name, decompressed in _PACKINGS:
        if head.startswith(magic):
            return _decompressed(stream, size, path, inode, name, decompressed)

    def again() -> BinaryIO:
        return cast(BinaryIO, _At(stream))

    return _text(path, stream, size, head, inode, "", again)


def _database(path: Path, size: int, inode: str) -> OpenLog:
    """Return the rows of a database as a log with a line for each."""
    rows = rows_of(path)
    try:
        head = rows.read(HEAD)
    except LogRefused:
        rows.close()
        raise
    # a second reading may begin while the first goes on, so each has its own rows
    return OpenLog(
        path=stored_path(path), stream=rows, size=size, head=head, inode=inode, compression="sqlite",
        again=lambda: rows_of(path),
    )  # fmt: skip


def _decompressed(
    stream: BinaryIO,
    size: int,
    path: str,
    inode: str,
    name: str,
    decompressed: Callable[[BinaryIO], BinaryIO],
) -> OpenLog:
    """Return the text of a compressed file."""

    def again() -> BinaryIO:
        return cast(BinaryIO, _Guarded(decompressed(cast(BinaryIO, _At(stream))), name))

    head = b""
    text = again()
    while len(head) < HEAD and (more := text.read(HEAD - len(head))):
        head += more
    return _text(path, stream, size, head, inode, name, again)


def _text(
    path: str,
    stream: BinaryIO,
    size: int,
    head: bytes,
    inode: str,
    packing: str,
    again: Callable[[], BinaryIO],
) -> OpenLog:
    """Return a log whose text is decoded by the encoding that its first bytes show."""
    encoding = _encoding(head)
    log = OpenLog(
        path=path, stream=stream, size=size, head=head, inode=inode, compression=packing, encoding=encoding,
        again=again,
    )  # fmt: skip
    if encoding not in (UTF8, LATIN1):
        log.again = lambda: cast(BinaryIO, _Recoded(again(), encoding))
        log.head = log.again().read(HEAD)
    return log


def _encoding(head: bytes) -> str:
    """Return the encoding of a text by its mark, else by where its first bytes are zero."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    start = head[:256]
    if len(start) >= 4 and start[0] and not any(start[1::2]) and all(start[0:16:2]):
        return "utf-16-le"
    if len(start) >= 4 and start[1] and not any(start[0::2]) and all(start[1:16:2]):
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder(UTF8)().decode(head)
    except UnicodeDecodeError:
        return LATIN1 if b"\0" not in head else UTF8
    return UTF8


class _At(io.RawIOBase):
    """A file that is read from a place of its own, so that two readings of it do not disturb each other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        ends = (0, self._place, os.fstat(self._file.fileno()).st_size)
        self._place = ends[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = max(0, os.fstat(self._file.fileno()).st_size - self._place)
        data = os.pread(self._file.fileno(), size, self._place)
        self._place += len(data)
        return data


class _Guarded(io.RawIOBase):
    """A decompressed stream whose faults are `LogRefused`."""

    def __init__(self, inner: BinaryIO, packing: str) -> None:
        self._inner, self._packing = inner, packing

    def read(self, size: int = -1) -> bytes:
        with _guarded(self._packing):
            return self._inner.read(size)


@contextmanager
def _guarded(packing: str) -> Iterator[None]:
    """Turn the faults of a packing into `LogRefused`."""
    try:
        yield
    except _FAULTS:
        what = "archive" if packing == "zip" else "compressed file"
        raise LogRefused(
            f"a {packing} {what} that cannot be unpacked: damaged, cut off or locked with a password"
        ) from None


class _Recoded(io.RawIOBase):
    """A text in another encoding, as UTF-8."""

    def __init__(self, inner: BinaryIO, encoding: str) -> None:
        self._inner = inner
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")

    def read(self, size: int = -1) -> bytes:
        data = self._inner.read(size)
        text = self._decoder.decode(data, final=not data)
        if data and not text:
            return self.read(size)
        return text.encode("utf-8", "replace").removeprefix(BOM)


def unreadable(error: OSError) -> str:
    """Return why a file cannot be read, without the file's path, because a path may hold a secret."""
    return f"cannot be read: {(error.strerror or type(error).__name__).lower()}"


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise LogRefused(f"it is {kind_of(mode)}, not a file")


def kind_of(mode: int) -> str:
    """Return the kind of a file that is not a regular one, for example "a pipe", from its file mode."""
    if stat.S_ISFIFO(mode):
        return "a pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a folder" if stat.S_ISDIR(mode) else "a device"
