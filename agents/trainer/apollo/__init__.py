"""The Apollo optimizer (arXiv 2412.05270), in torch and as a compiled kernel for the CPU.

Invariant: state, seed and gradients determine every step bit for bit. This package knows nothing about losses
or files. It needs only torch and the defaults of `agents.trainer.messages`. Import `Apollo` from
`optimizer.py`.
"""
