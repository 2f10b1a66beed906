"""The routes with which a client of vLLM trains the model; they pass requests on to the service of the home.

    POST /train         takes {"seed", "retry", "dry_run"}, all optional; starts a night, unless one runs
                        already, and answers 202 {"night": id} at once; with dry_run it starts nothing and
                        answers with the plan of a night
    POST /checkpoint    verifies the files of the served checkpoint and answers {"checkpoint",
                        "weights_sha256", "number", "version", "dirty"}; 409 while an update runs
    POST /rollback      takes {"target": id, "dry_run"}, both optional; does the same as `nightschool
                        rollback`, and answers when it is done
    GET /train/status   answers {"service": "up", "down" or "silent", "refused": the reason why vLLM shares no
                        weights, or "", "mapping": {"version", "dirty", "holds", "bytes"} or null}; if the
                        service answers, also the fields of its GET /status, "night" (the id of the running
                        night, or null) and "trainer"

Without a service the POST routes answer 503. Invariant: the service does all the work, so all of it is in the
ledger, and nothing here blocks vLLM's event loop. This module checks no access: `plugin` has applied the
rules of `access` before.
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
"""Longest wait in seconds for the service's status."""
WAIT_S = 600.0
"""Longest wait in seconds for any other answer: a rollback or a dry run may wait for the trainer's current
work."""


class TrainingRoutes:
    """The handlers of the four training routes."""

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
        """Return the fields of the status that need no service: those about the shared weights."""
        state = read_state(self._served.weights_file)
        mapping = None
        if state is not None:
            size = _shared_bytes(self._served)
            mapping = {"version": state.version, "dirty": state.dirty, "holds": state.holds, "bytes": size}
        return {"mapping": mapping, "refused": self._served.refused}


async def _body(request: Request) -> Json:
    """Return the JSON object in a request's body; {} for an empty body."""
    raw = await request.body()
    return requests.parse_body(raw) if raw.strip() else {}


def _shared_bytes(served: ServedDirectory) -> int:
    """Return the size of the shared weights in bytes; 0 if there is no manifest at this moment."""
    manifest = served.manifest()
    return manifest.nbytes if manifest else 0
