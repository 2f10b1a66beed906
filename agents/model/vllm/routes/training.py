"""Routes by which a client of vLLM has the model trained; they pass requests on to the service of the home.

    POST /train         {"seed", "retry", "dry_run"}, all optional: starts a night, or names the running one;
                        answers 202 {"night": id} at once. With dry_run: what it would train on
    POST /checkpoint    the checkpoint that is served, its files verified: {"checkpoint", "weights_sha256",
                        "number", "version", "dirty"}; 409 while an update is in the weights
    POST /rollback      {"target": id, "dry_run"}, both optional: as `nightschool rollback`, to its end
    GET /train/status   {"service": "up", "down" or "silent", "refused": why vLLM shares no weights, or "",
                        "mapping": {"version", "dirty", "holds", "bytes"} or null}; if the service answers,
                        also its GET /status, "night" (the running one's id or null), "trainer"

Without a service the POST routes answer 503. Invariant: the service does all the work, so all of it is in the
ledger, and nothing here blocks vLLM's event loop. This module does not know who calls: `plugin` has applied
the rules of `access`.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agents.model import requests
from agents.model.vllm.routes.service import ServiceClient
from agents.model.vllm.served_directory import ServedDirectory
from agents.model.weights.header import read_state
from corpus.aliases import Json
from corpus.errors import GateRefused, ServiceAway

STATUS_S = 5.0
"""Longest wait for the service's status."""
WAIT_S = 600.0
"""Longest wait for anything else: a rollback and a dry run wait for the trainer and its current work."""


class TrainingRoutes:
    """The handlers of the four routes."""

    def __init__(self, served: ServedDirectory, service: ServiceClient) -> None:
        self._served = served
        self._service = service

    async def train(self, request: Request) -> Response:
        """Handle `POST /train`."""
        body = await _body(request)
        result = await self._service.ask("train", body, seconds=WAIT_S)
        return JSONResponse(result, 200 if body.get("dry_run") else 202)

    async def checkpoint(self, request: Request) -> Response:
        """Handle `POST /checkpoint`."""
        body = await _body(request)
        active = await self._service.ask("checkpoint", body, seconds=WAIT_S)
        state = read_state(self._served.weights_file)
        if state is None:
            raise GateRefused(f"vLLM shares no weights, so it serves no checkpoint: {self._served.refused}")
        if state.dirty or state.holds != active["checkpoint"]:
            raise GateRefused(
                "an update is in the weights, not yet kept or undone: try again when it has ended"
            )
        return JSONResponse({**active, "version": state.version, "dirty": state.dirty})

    async def rollback(self, request: Request) -> Response:
        """Handle `POST /rollback`."""
        body = await _body(request)
        return JSONResponse(await self._service.ask("rollback", body, seconds=WAIT_S))

    async def status(self, _: Request) -> Response:
        """Handle `GET /train/status`."""
        own = await asyncio.to_thread(self._own)
        try:
            status = await self._service.ask("status", {}, seconds=STATUS_S)
        except ServiceAway:
            return JSONResponse({"service": "silent" if self._service.is_up else "down", **own})
        return JSONResponse({**status, "service": "up", **own})

    def _own(self) -> Json:
        """Return the fields that need no service."""
        state = read_state(self._served.weights_file)
        mapping = None
        if state is not None:
            size = _shared_bytes(self._served)
            mapping = {"version": state.version, "dirty": state.dirty, "holds": state.holds, "bytes": size}
        return {"mapping": mapping, "refused": self._served.refused}


async def _body(request: Request) -> Json:
    """Return the body of a request; {} for an empty one."""
    raw = await request.body()
    return requests.parse_body(raw) if raw.strip() else {}


def _shared_bytes(served: ServedDirectory) -> int:
    """Return the size of the shared weights; 0 in the moment without a manifest."""
    manifest = served.manifest()
    return manifest.nbytes if manifest else 0
