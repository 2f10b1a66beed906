"""Three functions of vLLM on a CPU that must not work as they do: packed weights and seeded generators.

On a CPU vLLM packs its weights for its kernels, and an edit of the parameters beside the packed copies would
have no effect. Invariant: what is loaded within `plain_linears` is served from the parameters themselves,
read again at each call; the same answer is drawn, however its prompt was cut. This module knows nothing about
the names of weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

_CONVOLUTIONS = ("causal_conv1d_fwd_cpu", "causal_conv1d_update_cpu")


@contextmanager
def plain_linears() -> Iterator[None]:
    """Keep linear layers that are loaded within unpacked; on other devices they are so anyway."""
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
    """Wrap the kernels so that they take an unpacked convolution too.

    vLLM passes each weight as packed, and an unpacked one would be read in the wrong order, without an error.
    An unpacked weight has the three dimensions of Hugging Face's `(dim, 1, width)`, a packed one has two.
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
    """Wrap the function that rewinds generators, for requests whose prompt takes more than one step.

    vLLM draws a token for such a request after each step, discards all but the last, and rewinds the
    generator by an offset. A CPU's generator has none, and the server would end with "CPU Generator does not
    use offset"; a batch of ours is enough for that. Here the generator starts again from its seed: until the
    prompt is read, no draw counts. A second call changes nothing.
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
