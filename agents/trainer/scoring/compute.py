"""The type in which an update multiplies matrices, chosen once for an update.

With bfloat16 the factors of each matrix product are rounded to bfloat16, and its terms are added in float32.
The stream between the layers, norms, attention's scores and the loss stay float32, and so do the gradients of
float32 weights. This is torch's autocast.

Invariant: what "auto" means depends on the processor alone, never on a measured time: the choice changes the
last bits of a result, and an update that is made again on one machine must give the same checkpoint.
"""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

Compute = Literal["weights", "bfloat16"]
SMALL = 10_000_000
"""Number of weights up to which a model is small."""


def resolve(wanted: Literal["auto", "weights", "bfloat16"], model: Any) -> Compute:
    """Return the type for this model; "auto" is bfloat16 for float32 weights on a processor with AMX.

    `bench/rates.py --speed` measures it. Without AMX, and on a GPU, "auto" is the weights' own type.
    """
    if wanted != "auto":
        return wanted
    weight = model.get_input_embeddings().weight
    return "bfloat16" if weight.is_cpu and weight.dtype == torch.float32 and has_amx() else "weights"


def reading_type(model: Any) -> Compute:
    """Return the type for passes that only read a model: as for "auto", but a small model's own type.

    With a small model a pass takes no time, and its readings keep the bits that they had.
    """
    size = sum(weight.numel() for weight in model.parameters())
    return resolve("auto", model) if size > SMALL else "weights"


def has_amx() -> bool:
    """Return whether torch multiplies bfloat16 matrices with the processor's AMX unit."""
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and torch.cpu._is_amx_tile_supported()


def computing(compute: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which matrices are multiplied in this type.

    The rounded weights are kept until the context ends. A pass without gradients needs a context of its own:
    weights that it has rounded would get no gradient.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=compute == "bfloat16")
