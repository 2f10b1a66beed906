"""The `[model]` table of a home's configuration: the served model, and its server.

Invariant: this module holds values only. It is separate, because the vLLM plugin reads this table without the
rest of the configuration, and must not import the loop.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model that is served and trained."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = ""
    """Hugging Face directory of the model. Empty means the shipped model or, if `model.url` is set, the
    model that your vLLM serves. Set it before `init`, which makes checkpoint 0 from it, and do not change it
    later."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Number of threads that the model server uses, and the trainer as well. 0 leaves it to the machine:
    one for a model as small as the shipped one, else one for each core that the process may use, at most
    16."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that the embedded server computes products in. `auto` is that of the weights, or bfloat16 for
    weights in float32 where the processor has instructions for it and a measurement at the server's start
    says that it is quicker; the weights themselves keep their type."""
    url: str = ""
    """Address of your own vLLM, such as `http://127.0.0.1:8000`; empty for the embedded server. `init
    --url` sets it."""
    api_key: str = ""
    """Key that your vLLM was started with; empty if it has none."""
    salt_seconds: Annotated[float, Field(ge=0.1, le=86400)] = 10.0
    """Longest time in seconds for which your vLLM reuses cached prefixes that older weights computed, while
    an update runs."""
    readout: bool = False
    """Whether your vLLM computes concept scores from the residual stream while it answers; needs vLLM's
    option `--enforce-eager`."""
