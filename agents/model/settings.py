"""The `[model]` table of a home's configuration: which model is served, and by whom.

Invariant: values only. Read by the service with everything else, and by the vLLM plugin by itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that is served and trained."""

    __pydantic_config__ = {"extra": "forbid"}

    path: str = ""
    """A Hugging Face directory; "" for the model that is shipped or, with `url`, the one that is served there."""
    threads: int = 1
    """Threads of the embedded model server, and of the trainer."""
    url: str = ""
    """Address of your own vLLM, such as http://127.0.0.1:8000; "" for the embedded server."""
    api_key: str = ""
    """The key that vLLM was started with; "" if it has none."""
    salt_seconds: float = 10.0
    """While an update runs, prefixes that vLLM has cached are served for at most so long."""
    readout: bool = False
    """Whether vLLM reads concept scores off the residual stream as it answers; needs --enforce-eager."""
