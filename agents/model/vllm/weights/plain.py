"""On a CPU vLLM packs its weights for its kernels: an edit of what it keeps besides would not be seen.

Invariant: what is loaded within `linears` is served from the parameters themselves, read anew at each call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_CONVOLUTIONS = ("causal_conv1d_fwd_cpu", "causal_conv1d_update_cpu")


@contextmanager
def linears() -> Iterator[None]:
    """Keep what is loaded in here plain; elsewhere than on a CPU it is so anyway."""
    import torch
    import vllm.model_executor.layers.utils as layers
    from vllm.platforms import current_platform

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    packed = layers.dispatch_cpu_unquantized_gemm
    if current_platform.is_cpu():
        layers.dispatch_cpu_unquantized_gemm = plain
    try:
        yield
    finally:
        layers.dispatch_cpu_unquantized_gemm = packed


def convolutions() -> None:
    """Let the kernels take a plain convolution too: they are told that it is packed, and read it so, silently wrong.

    A plain one has the three dimensions of Hugging Face's `(dim, 1, width)`, a packed one has two.
    """
    from vllm import _custom_ops as kernels

    for name in _CONVOLUTIONS:
        if hasattr(kernels, name):
            setattr(kernels, name, _either(getattr(kernels, name)))


def _either(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def call(*, weight: Any, is_weight_packed: bool, **more: Any) -> Any:
        if weight.dim() == 3:  # packed by the kernel, in some 10 us, from what the weight is now
            weight, is_weight_packed = weight.flatten(1), False
        return kernel(weight=weight, is_weight_packed=is_weight_packed, **more)

    return call
