"""The Apollo optimizer (arXiv 2412.05270), in torch and as a compiled kernel for the CPU.

Invariant: state, seed and gradients determine every step bit for bit. Knows no loss and no file; `import
torch` is all that it needs besides the settings' defaults. `optimizer.py` is the entry; users may import
`Apollo` from it.
"""
