"""The served weights: shared between processes, used as a model's parameters, and restored from checkpoints.

`shared` is the memory-mapped file of the weights, `header` the file's first page and the lock of its writer,
`rwlock` the lock between forward passes and writes, and `cuda_ipc` the access to weights on a GPU. `views`
builds a model on the shared weights, `snapshot` copies checkpoints in and out, and `hf_export` writes a
checkpoint as a model directory.

Invariant: one process writes at a time, and the header says which weights these are. This package knows
nothing about the ledger. Servers, the trainer and the loop's checkpoint commands import it; `header`,
`rwlock` and `hf_export` do not need torch.
"""
