"""Other users of the machine, other code in the working directory, and a token that opens too much."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import small
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from agents.model.http_auth import AuthMiddleware
from corpus.errors import HomeLocked
from loop.api.http import CHAT_PATHS
from loop.engine import children
from store import home as homes
from store.files import private
from store.home import Home, create, run_directory, token_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Make a home, and a folder in the place of /dev/shm."""
    with tempfile.TemporaryDirectory(prefix="ns") as memory:  # a short path: it has sockets
        monkeypatch.setattr(homes, "memory", lambda: Path(memory))
        yield create(tmp_path / "home")


def test_a_module_in_the_working_directory_is_not_run_as_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    for place in ("agents/trainer/process/main.py", "uvicorn.py", "zmq.py"):
        module = tmp_path / place
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(f"open({str(ran)!r}, 'w').write('the wrong code')\n")
    monkeypatch.chdir(tmp_path)

    async def start() -> int:
        process = await children.spawn("agents.trainer.process.main", "--help", logs=tmp_path)
        return await process.wait()

    assert anyio.run(start) == 0, (tmp_path / "trainer.log").read_text()
    assert not ran.exists()


def test_a_run_directory_that_somebody_made_first_is_not_believed(home: Home, tmp_path: Path) -> None:
    usual = home.run_dir
    usual.mkdir()
    usual.chmod(0o755)  # whatever the umask is
    (usual / "service.sock").touch()
    assert home.run_dir == home.path / "run" and not home.control_socket.exists()
    usual.chmod(0o700)
    assert home.run_dir == usual
    (usual / "service.sock").unlink()
    usual.rmdir()
    usual.symlink_to(tmp_path)
    assert home.run_dir == home.path / "run"
    served = usual.with_name(f"{usual.name}-served")
    assert home.served_dir == served
    served.mkdir(mode=0o777)
    served.chmod(0o777)
    assert home.served_dir == home.path / "run-served"


def test_a_service_still_runs_where_its_name_is_taken(home: Home) -> None:
    (usual := home.run_dir).symlink_to("/")
    with run_directory(home) as directory:
        assert directory == home.path / "run" and private.is_private(directory)
    assert usual.is_symlink() and not directory.exists()


def test_only_directories_whose_holder_is_dead_are_swept(home: Home) -> None:
    base, name = home.run_dir.parent, f"nightschool-{os.getuid()}-"
    dead, alive, old, young, others = (base / f"{name}{letter * 12}" for letter in "abcde")
    for place in (dead, alive, old, young, others):
        place.mkdir(mode=0o700)
    for place in (dead, alive):
        (place / private.LOCK).touch()
    others.chmod(0o755)
    os.utime(old, (1e9, 1e9))
    with (alive / private.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with run_directory(home) as directory:
            assert sorted(base.iterdir()) == sorted([alive, young, others, directory])
            assert homes.dead_directories(home) == []
    assert sorted(base.iterdir()) == sorted([alive, young, others])


def test_what_others_could_read_is_closed_at_the_next_start(home: Home, command: small.Command) -> None:
    assert command("--home", home.path, "init").code == 0
    opened = [home.path, home.token_file, home.inbox, home.path / "ledger.db"]
    for path in opened:
        path.chmod(0o777)
    ran = command("--home", home.path, "pause")
    assert ran.code == 0 and "was open to other users" in ran.err
    assert not [path for path in opened if path.stat().st_mode & 0o077]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_token_of_another_user_is_refused(home: Home, command: small.Command) -> None:
    assert command("--home", home.path, "init").code == 0
    os.chown(home.token_file, 12345, 12345)
    assert "belongs to another user" in command("--home", home.path, "--json", "pause").failed(2)


def guarded(home: Home) -> TestClient:
    async def answer(_: object) -> PlainTextResponse:
        return PlainTextResponse("in")

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    guard = AuthMiddleware(
        app, token=home.token(), port=80, chat_token=home.chat_token, chat_paths=CHAT_PATHS
    )
    return TestClient(guard, base_url="http://127.0.0.1")


@pytest.mark.parametrize(
    ("path", "chat"),
    [
        ("/v1/chat/completions", 200),
        ("/v1/models", 200),
        ("/receipts/20260101-0011223344556677", 200),
        ("/do/rollback", 401),
        ("/do/ingest", 401),
        ("/status", 401),
        ("//do/forget", 401),
        ("/v1/chat/../../do/prune", 401),
    ],
)
def test_the_token_for_chats_opens_chats_alone(home: Home, path: str, chat: int) -> None:
    client = guarded(home)
    for token, expected in ((home.chat_token(), chat), (home.token(), 200), ("x" * 43, 401), ("", 401)):
        answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == expected, (path, token == home.chat_token())


def test_a_rotated_token_opens_at_once_and_the_old_one_no_longer(home: Home) -> None:
    client, old = guarded(home), home.chat_token()
    new = token_of(home, operations=False, rotate=True)
    codes = [
        client.get("/v1/models", headers={"Authorization": f"Bearer {token}"}).status_code
        for token in (old, new)
    ]
    assert codes == [401, 200] and home.chat_token_file.stat().st_mode & 0o777 == 0o600
    with homes.locked(home), pytest.raises(HomeLocked):
        token_of(home, operations=True, rotate=True)
    before = home.token()
    assert token_of(home, operations=True, rotate=True) == home.token() != before


def test_the_command_prints_both_tokens(home: Home, command: small.Command) -> None:
    assert command("--home", home.path, "token").out.strip() == home.chat_token()
    printed = command("--home", home.path, "--json", "token", "--operations").result
    assert printed == {"token": home.token()}
