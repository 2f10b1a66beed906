"""The served weights: shared between processes, read as a model, and restored from checkpoints.

`shared` is the file of memory, `header` its first page and its writer's lock, `rwlock` the lock between
forward passes and writes, `cuda_ipc` the way to weights on a GPU; `views` builds a model on them, `snapshot`
copies checkpoints in and out, and `hf_export` writes a checkpoint as a model directory.

Invariant: one process writes at a time, and the header says what the weights are. This package knows nothing
about the ledger. Servers, the trainer and the loop's checkpoint commands import it; only `header` is free of
torch.
"""
