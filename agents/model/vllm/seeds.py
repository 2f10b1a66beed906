"""On a CPU: seeds for requests whose prompt is read in more than one step.

vLLM draws a token for such a request after each step, throws all but the last away, and takes the generator back by
an offset, which a CPU's generator does not have: the whole server ends with "CPU Generator does not use offset". A
batch of ours is enough for that. Here the generator begins again instead, for until the prompt is read it has drawn
nothing that counts. Invariant: an answer is drawn alike, however its prompt was cut.
"""

from typing import Any


def install() -> None:
    """Wrap the one function that takes generators back; called again it changes nothing."""
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
