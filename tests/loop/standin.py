"""A server that is nobody's child, as vLLM is: the embedded routes on a TCP port, over a mapping at vLLM's
place.

    standin.py HOME PORT shares|refuses|alone

`shares` its weights as the plugin does, `refuses` to, or knows `alone` nothing of any home. It counts
requests under vLLM's names. The product knows nothing of this; the real vLLM is in tests/vllm.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from agents.model.embedded.routes import build_app
from agents.model.embedded.server import load
from agents.model.vllm.served_directory import ServedDirectory
from corpus.recipe import MODEL_DIR
from store.home import Home

BATCH, CHAT = "/v1/batch/chat", "/v1/chat/completions"


class Counting:
    """The routes, with the metrics that vLLM keeps of them."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.finished = self.busy = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asks = scope.get("path") in (BATCH, CHAT)
        self.busy += asks
        try:
            await self._app(scope, receive, send)
        finally:
            self.busy -= asks
            self.finished += scope.get("path") == CHAT

    async def metrics(self, _: Request) -> Response:
        labels = '{engine="0",model_name="a model"}'
        return PlainTextResponse(
            f"vllm:num_requests_running{labels} {self.busy}.0\n"
            f"vllm:request_success_total{labels} {self.finished}.0\n"
        )


async def fine(_: Request) -> Response:
    return JSONResponse({"version": "0"})


async def models(_: Request) -> Response:
    return JSONResponse({"data": [{"id": "a model", "root": str(MODEL_DIR), "max_model_len": 512}]})


def main(home: Path, port: int, how: str) -> None:
    place = ServedDirectory(Home(home).served_dir)
    if how == "alone":
        directory = Path(tempfile.mkdtemp())
    else:
        place.acquire()
        directory = place.directory
    served = load(MODEL_DIR, directory, None, "", 1)
    if how == "refuses":
        place.refuse("the model is quantized")
    counting = Counting(build_app(served))
    own = {"/health": fine, "/version": fine, "/metrics": counting.metrics, "/v1/models": models}
    app = Starlette(routes=[*(Route(path, answer) for path, answer in own.items()), Mount("/", counting)])
    try:
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    finally:
        place.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
