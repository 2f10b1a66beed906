"""Three changes to vLLM on a CPU: plain linear layers, plain convolutions, and generators that restart.

On a CPU, vLLM packs copies of its weights for its kernels, so an edit of the parameters would have no effect.
It also cannot rewind the generator of a seeded request. Invariant: a model that is loaded within
`plain_linears` reads its parameters themselves at each call, and a seed gives the same answer, whether vLLM
reads the prompt in one step or in several. This module knows nothing about the names of weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_CONVOLUTIONS = ("causal_conv1d_fwd_cpu", "causal_conv1d_update_cpu")


@contextmanager
def plain_linears() -> Iterator[None]:
    """Leave the weights of linear layers that are loaded in the block unpacked.

    On devices other than CPUs this changes nothing, because vLLM packs weights on CPUs only.
    """
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


def accept_plain_convolutions() -> None:
    """Wrap vLLM's convolution kernels, so that they also take unpacked weights.

    vLLM tells the kernels that every weight is packed. They would then read an unpacked weight in the wrong
    order, without an error. The wrapper tells them apart: an unpacked weight has the three dimensions
    `(dim, 1, width)`, as in Hugging Face's model, and a packed weight has two.
    """
    from vllm import _custom_ops as kernels

    for name in _CONVOLUTIONS:
        if hasattr(kernels, name):
            setattr(kernels, name, _accept_plain(getattr(kernels, name)))


def _accept_plain(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def call(*, weight: Any, is_weight_packed: bool, **more: Any) -> Any:
        if weight.dim() == 3:  # the kernel packs it at each call, in some 10 us
            weight, is_weight_packed = weight.flatten(1), False
        return kernel(weight=weight, is_weight_packed=is_weight_packed, **more)

    return call


def restart_generators() -> None:
    """Wrap the function of vLLM that rewinds generators, so that it restarts them from their seeds instead.

    If vLLM reads a prompt in several steps, it draws a token after each step, discards all but the last, and
    rewinds the request's generator by an offset. A generator on a CPU has no offset, so the server would stop
    with "CPU Generator does not use offset"; one of our batches is enough to cause this. A restart from the
    seed has the same effect, because no draw counts before the whole prompt is read. A second call of this
    function changes nothing.
    """
    import numpy as np
    from vllm.platforms import current_platform
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    original = GPUModelRunner._bookkeeping_sync
    if not current_platform.is_cpu() or hasattr(original, "__wrapped__"):
        return

    def bookkeeping_sync(self: Any, *more: Any, **named: Any) -> Any:
        generators = self.input_batch.generators
        unread = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0]
        held = {int(row): generators.pop(int(row)) for row in unread if int(row) in generators}
        for generator in held.values():
            generator.manual_seed(generator.initial_seed())
        try:
            return original(self, *more, **named)
        finally:
            generators.update(held)

    bookkeeping_sync.__wrapped__ = original  # type: ignore[attr-defined]
    GPUModelRunner._bookkeeping_sync = bookkeeping_sync
