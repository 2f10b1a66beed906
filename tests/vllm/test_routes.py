"""The training routes on a real vLLM: access, and the results."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import zmq
from conftest import Vllm, free_port, new_home, point_at, serving

from agents.model import protocol
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.shared import SharedWeights
from loop.api.rpc import serve_rpc
from loop.config import load_settings
from loop.engine.service import opened
from loop.operations.operations import Operations
from store import queries
from store.checkpoints.store import CheckpointStore
from store.home import Home
from store.ledger.db import Ledger, database_url, now
from store.ledger.records import Checkpoint, save
from store.nights import history

ROUTES = (("POST", "/train"), ("POST", "/checkpoint"), ("POST", "/rollback"), ("GET", "/train/status"))
CHAT = {"messages": [{"role": "user", "content": "How should I begin?"}], "max_tokens": 5}
KEYS = ("first-key", "second-key")
READY_S = 120.0
"""Longest wait for the trainer: 10 s alone."""


@contextmanager
def service(home: Home) -> Iterator[str]:
    """Run a real service of this home with its trainer in a thread; yield the active checkpoint's id."""
    ready, done, told = threading.Event(), threading.Event(), []

    async def run() -> None:
        async with (
            opened(home, load_settings(home.config_file)) as open_service,
            anyio.create_task_group() as tasks,
        ):
            await tasks.start(serve_rpc, Operations(service=open_service))
            with anyio.fail_after(READY_S):
                await tasks.start(open_service.processes.run)
            told.append((await open_service.ledger.read(queries.active)).id)
            ready.set()
            await anyio.to_thread.run_sync(done.wait)
            tasks.cancel_scope.cancel()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(anyio.run, run)
        running.add_done_callback(lambda _: ready.set())
        ready.wait()
        try:
            if running.done():
                running.result()
            yield str(told[0])
        finally:
            done.set()
        running.result()


def second_checkpoint(home: Home) -> tuple[str, str]:
    """Give the home a kept checkpoint after the base and make it active; return both ids."""
    store, ledger = CheckpointStore(home.checkpoints), Ledger(database_url(home.path, ""))
    with ledger.writing() as connection:
        base = queries.active(connection).id
        weights = store.load_weights(base)
        name = min(weights)
        weights[name] = replace(weights[name], data=bytes(len(weights[name].data)))
        files = store.write(weights, None, {"parent": base})
        row = Checkpoint(
            id=files.id,
            parent_id=base,
            number=1,
            weights_sha256=files.weights_sha256,
            update_id=None,
            state="kept",
            at=now(),
        )
        save(connection, [row])
        history.point(connection, files.id, "kept by a test")
    ledger.close()
    return base, files.id


def asked(vllm: Vllm, method: str, path: str, **more: Any) -> httpx.Response:
    with vllm.http() as http:
        return http.request(method, path, **more)


def sentence(answer: httpx.Response, status: int) -> str:
    """Return the message of an error with this status, in OpenAI's form."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status), answer.text
    return str(error["message"])


def test_without_a_service_the_status_is_answered_and_the_other_routes_name_the_cure(vllm: Vllm) -> None:
    shared = SharedWeights.attach(ServedDirectory(vllm.home.served_dir).weights_file)
    told = asked(vllm, "GET", "/train/status")
    mapping = {
        "version": shared.version,
        "dirty": shared.dirty,
        "holds": shared.holds,
        "bytes": shared.nbytes,
    }
    assert (told.status_code, told.json()) == (200, {"service": "down", "mapping": mapping, "refused": ""})
    for method, path in ROUTES[:3]:
        assert "nightschool run" in sentence(asked(vllm, method, path), 503)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_on_loopback_without_a_key_this_machine_is_admitted_and_no_web_page(
    vllm: Vllm, method: str, path: str
) -> None:
    assert asked(vllm, method, path, headers={"Host": "localhost"}).status_code in (200, 503)
    for headers in (
        {"Host": "example.com"},
        {"Origin": "https://example.com"},
        {"X-Forwarded-For": "10.0.0.1"},
    ):
        assert sentence(asked(vllm, method, path, headers=headers), 403)
    assert asked(vllm, "GET" if method == "POST" else "POST", path).status_code == 405


def test_results_and_refusals_of_the_service_are_passed_on(vllm: Vllm) -> None:
    shared = SharedWeights.attach(ServedDirectory(vllm.home.served_dir).weights_file)
    with service(vllm.home) as active:
        told = asked(vllm, "GET", "/train/status").json()
        assert (told["service"], told["checkpoint"], told["trainer"]["doing"]) == ("up", active, "idle")
        assert told["mapping"]["holds"] == active and told["next_update_reason"]

        served = asked(vllm, "POST", "/checkpoint").json()
        assert (served["checkpoint"], served["version"], served["dirty"]) == (active, shared.version, False)
        assert set(served) == {"checkpoint", "weights_sha256", "number", "version", "dirty"}
        try:
            shared.dirty = True  # as in mid-update
            assert "update" in sentence(asked(vllm, "POST", "/checkpoint"), 409)
        finally:
            shared.dirty = False

        back = asked(vllm, "POST", "/rollback", json={"target": active, "dry_run": True})
        assert (back.status_code, back.json()["to"], shared.version) == (200, active, served["version"])
        assert "already" in sentence(asked(vllm, "POST", "/rollback", json={"target": active}), 404)
        assert "nothing before it" in sentence(asked(vllm, "POST", "/rollback"), 409)
        assert sentence(asked(vllm, "POST", "/rollback", json={"target": "nonsense"}), 404)
        assert sentence(asked(vllm, "POST", "/rollback", json={"target": 5}), 400)
        assert sentence(asked(vllm, "POST", "/train", json={"seed": "x"}), 400)
        assert sentence(asked(vllm, "POST", "/train", content=b"[1]"), 400)


@contextmanager
def silent(home: Home) -> Iterator[None]:
    """A service that listens and never answers."""
    home.run_dir.mkdir(mode=0o700)
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    try:
        router.bind(protocol.address(home.run_dir, protocol.SERVICE_SOCKET_NAME))
        yield
    finally:
        context.destroy(linger=0)
        (home.run_dir / protocol.SERVICE_SOCKET_NAME).unlink(missing_ok=True)
        home.run_dir.rmdir()


def test_users_are_answered_while_the_service_does_not_answer(vllm: Vllm) -> None:
    with ThreadPoolExecutor(4) as threads:
        with silent(vllm.home):
            waiting = [threads.submit(asked, vllm, "POST", path) for _, path in ROUTES[:3]]
            status = threads.submit(asked, vllm, "GET", "/train/status")
            answered = [asked(vllm, "POST", "/v1/chat/completions", json=CHAT).status_code for _ in range(5)]
            assert answered == [200] * 5
            assert not any(one.done() for one in waiting)
            assert status.result().json()["service"] == "silent"
        for one in waiting:
            assert "has stopped" in sentence(one.result(), 503)


def test_with_an_api_key_every_route_requires_it_or_the_homes_token(tmp_path: Path) -> None:
    home, port = new_home(tmp_path / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}", api_key=KEYS[0])
    base, kept = second_checkpoint(home)
    arguments = ("--api-key", *KEYS, "--root-path", "/llm")
    with serving(home, tmp_path / "vllm.log", port=port, arguments=arguments) as vllm, service(home):
        for prefix in ("", "/llm"):
            for method, path in (*ROUTES, ("POST", "/v1/batch/chat"), ("POST", "/v1/batch/tokenize")):
                for key in (None, "", "another", "first-key, second-key"):
                    headers = {} if key is None else {"Authorization": f"Bearer {key}".strip()}
                    answer = asked(vllm, method, prefix + path, headers=headers, content=b"{")
                    assert answer.status_code == 401, (prefix, path, key)
            for key in (*KEYS, home.token()):
                headers = {"Authorization": f"Bearer {key}", "Host": "example.com"}
                assert asked(vllm, "GET", f"{prefix}/train/status", headers=headers).json()["service"] == "up"
        headers = {"Authorization": f"Bearer {KEYS[1]}"}
        rows = {"conversations": [CHAT["messages"]], "temperature": 0, "max_tokens": 20}
        before = asked(vllm, "POST", "/v1/batch/chat", headers=headers, json=rows).json()
        assert asked(vllm, "POST", "/checkpoint", headers=headers).json()["checkpoint"] == kept
        back = asked(vllm, "POST", "/rollback", headers=headers).json()
        assert (back["from"], back["to"]) == (kept, base)
        assert asked(vllm, "GET", "/train/status", headers=headers).json()["mapping"]["holds"] == base
        after = asked(vllm, "POST", "/v1/batch/chat", headers=headers, json=rows).json()
        assert after["results"] != before["results"] and after["weights_version"] > before["weights_version"]
        begun = asked(vllm, "POST", "/train", headers=headers, json={"seed": 3})
        assert (begun.status_code, begun.json()) == (202, {"night": "n1"})
        assert asked(vllm, "GET", "/train/status", headers=headers).json()["night"] == "n1"
        texts = asked(vllm, "POST", "/v1/batch/tokenize", headers=headers, json={"texts": ["a"]})
        assert texts.status_code == 200


def test_no_route_is_open_on_a_vllm_without_a_key_that_other_machines_reach(tmp_path: Path) -> None:
    home, port = new_home(tmp_path / "home"), free_port()
    point_at(home, f"http://127.0.0.1:{port}")
    with serving(home, tmp_path / "vllm.log", port=port, arguments=("--host", "0.0.0.0")) as vllm:
        for method, path in ROUTES:
            for headers in ({}, {"Authorization": "Bearer EMPTY"}, {"Origin": "http://localhost"}):
                told = sentence(asked(vllm, method, path, headers=headers), 403)
                assert "--api-key" in told and "--host 127.0.0.1" in told
            headers = {"Authorization": f"Bearer {home.token()}"}
            assert asked(vllm, method, path, headers=headers).status_code in (200, 503)


FIND = """
import json, os, sys
import vllm.plugins as plugins
from agents.model.vllm import plugin
find, found = plugins.load_endpoint_plugins, []
for home, named in json.loads(sys.argv[1]):
    os.environ["NIGHTSCHOOL_HOME"] = home
    os.environ.pop("VLLM_PLUGINS", None)
    if named is not None:
        os.environ["VLLM_PLUGINS"] = named
    plugins.load_endpoint_plugins = find
    for _ in range(2):  # vLLM may load plugins more than once
        if named is None or "nightschool" in named:
            plugin.add_endpoints(plugin.read_config())
    for tasks in (("generate",), ("embed",)):
        found.append(sorted(one.name for one in plugins.load_endpoint_plugins(tasks)))
    print("---", file=sys.stderr, flush=True)
print(json.dumps(found))
"""


def test_the_routes_are_loaded_once_with_or_without_vllm_plugins_and_only_with_a_home(tmp_path: Path) -> None:
    """Also beside another package, whose plugin vLLM treats as without ours."""
    with_url, without = new_home(tmp_path / "with"), new_home(tmp_path / "without")
    point_at(with_url, "http://127.0.0.1:1")
    alone, beside = (
        install(tmp_path / "alone", "nightschool"),
        install(tmp_path / "beside", "nightschool", "other"),
    )
    cases = [
        (with_url, None),
        (with_url, "nightschool"),
        (with_url, ""),
        (without, None),
        (without, "nightschool"),
    ]
    found, said = find(alone, [*cases, (with_url, "other")])
    ours, none = [["nightschool"], []], [[], []]
    assert found == [*ours, *ours, *none, *none, *ours, *none]
    assert "Found endpoint plugin" not in said[0] + said[3]
    found, said = find(
        beside, [(with_url, None), (without, None), (with_url, "other"), (with_url, "nightschool,other")]
    )
    assert found == [*ours, *none, ["other"], ["other"], ["nightschool", "other"], ["other"]]
    assert "Found endpoint plugin" in said[0] and "Found endpoint plugin" in said[1]


def install(place: Path, *names: str) -> Path:
    """Make a folder of installed packages that have plugins of these names; return it."""
    place.mkdir()
    (place / "others_plugin.py").write_text("class Plugin:\n    name = 'other'\n    required_tasks = None\n")
    modules = {"nightschool": "agents.model.vllm.routes.plugin:Plugin", "other": "others_plugin:Plugin"}
    for name in names:
        info = place / f"{name}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
        (info / "entry_points.txt").write_text(f"[vllm.endpoint_plugins]\n{name} = {modules[name]}\n")
    return place


def find(packages: Path, cases: list[tuple[Home, str | None]]) -> tuple[list[list[str]], list[str]]:
    """Return the plugins that vLLM loads for each (home, VLLM_PLUGINS), by task, and its log."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{os.environ.get('PYTHONPATH', '')}"}
    given = json.dumps([(str(home.path), named) for home, named in cases])
    command = [sys.executable, "-c", FIND, given]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr.split("---")
