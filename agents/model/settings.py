"""The `[model]` table of a home's configuration: the served model, and its server.

Invariant: values only. A module of its own, because the vLLM plugin reads this table without the rest of the
configuration, and must not import the loop.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that is served and trained."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = ""
    """Hugging Face directory of the model; empty for the shipped model or, with `model.url`, for the
    served one. Set it before `init`, which makes checkpoint 0 of it, and leave it."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """Threads of the model server, and of the trainer."""
    url: str = ""
    """Address of your own vLLM, such as `http://127.0.0.1:8000`; empty for the embedded server. `init
    --url` sets it."""
    api_key: str = ""
    """Key that your vLLM was started with; empty if it has none."""
    salt_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 10.0
    """Longest time for which vLLM serves cached prefixes of older weights while an update runs."""
    readout: bool = False
    """Whether vLLM reads concept scores off the residual stream as it answers; needs
    `--enforce-eager`."""
