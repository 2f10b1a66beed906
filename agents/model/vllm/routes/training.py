"""The routes by which a program on vLLM's side has the model trained, passed on to the service of the home.

    POST /train         {"seed", "retry", "dry_run"}, all optional: begins a night now, or names the one that runs;
                        answers 202 {"night": id} at once. With dry_run: what it would train on, once that is known
    POST /checkpoint    the checkpoint that is served now, its files verified: {"checkpoint", "weights_sha256",
                        "number", "version", "dirty"}; 409 while an update is in the weights
    POST /rollback      {"target": id, "dry_run"}, both optional: as `nightschool rollback`, at its end
    GET /train/status   {"service": "up", "down" or "silent", "mapping": {"version", "dirty", "holds", "bytes"} or null,
                        "refused": why vLLM shares no weights, or ""}, and with a service that answers what its own
                        GET /status says, "night" (the running one's id or null) and "trainer"

Without a service the POST routes answer 503. Invariant: the work is the service's, so all of it is in the ledger, and
nothing here blocks vLLM's event loop. Does not know who asks: `routes.py` has checked that with `access.py`.
"""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agents.model import requests
from agents.model.vllm.place import Place
from agents.model.vllm.routes.service import ServiceClient
from agents.model.weights.header import read_state
from corpus.aliases import Json
from corpus.errors import GateRefused, ServiceAway

STATUS_S = 5.0
"""Longest wait for the service's word on where it stands."""
WAIT_S = 600.0
"""Longest wait for anything else: a rollback and a dry run wait for the trainer, and for what it has in hand."""


class Training:
    """The four routes' work."""

    def __init__(self, place: Place, service: ServiceClient) -> None:
        self._place = place
        self._service = service

    async def train(self, request: Request) -> Response:
        """`POST /train`."""
        body = await _body(request)
        told = await self._service.ask("train", body, seconds=WAIT_S)
        return JSONResponse(told, 200 if body.get("dry_run") else 202)

    async def checkpoint(self, request: Request) -> Response:
        """`POST /checkpoint`."""
        body = await _body(request)
        told = await self._service.ask("checkpoint", body, seconds=WAIT_S)
        words = read_state(self._place.mapping)
        if words is None:
            raise GateRefused(f"vLLM shares no weights, so it serves no checkpoint: {self._place.refused}")
        if words.dirty or words.holds != told["checkpoint"]:
            raise GateRefused(
                "an update is in the weights, and not yet kept or undone: ask again when it has ended"
            )
        return JSONResponse({**told, "version": words.version, "dirty": words.dirty})

    async def rollback(self, request: Request) -> Response:
        """`POST /rollback`."""
        body = await _body(request)
        return JSONResponse(await self._service.ask("rollback", body, seconds=WAIT_S))

    async def status(self, _: Request) -> Response:
        """`GET /train/status`."""
        own = await asyncio.to_thread(self._own)
        try:
            told = await self._service.ask("status", {}, seconds=STATUS_S)
        except ServiceAway:
            return JSONResponse({"service": "silent" if self._service.is_up else "down", **own})
        return JSONResponse({**told, "service": "up", **own})

    def _own(self) -> Json:
        """What vLLM knows without a service."""
        words = read_state(self._place.mapping)
        mapping = None
        if words is not None:
            told = {"version": words.version, "dirty": words.dirty, "holds": words.holds}
            mapping = {**told, "bytes": _bytes(self._place)}
        return {"mapping": mapping, "refused": self._place.refused}


async def _body(request: Request) -> Json:
    """What is asked for; {} for nothing."""
    raw = await request.body()
    return requests.parse_body(raw) if raw.strip() else {}


def _bytes(place: Place) -> int:
    """The size of the weights that are shared; 0 in the moment in which there is no manifest."""
    manifest = place.manifest()
    return int(manifest["nbytes"]) if manifest else 0
