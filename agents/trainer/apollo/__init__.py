"""The Apollo optimizer (arXiv 2412.05270), in torch and as a compiled kernel for the CPU.

Invariant: state, seed and gradients determine every step bit for bit. This package knows nothing about losses
or files. Besides the settings' defaults it needs only `import torch`. `optimizer.py` is the entry; users may
import `Apollo` from it.
"""
