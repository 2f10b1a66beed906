"""Lets torchvision be imported beside a torch without CUDA.

The library in PyPI's wheel of torchvision needs CUDA's, so beside torch's CPU build it does not load, and the
Python part stops at operators that nobody declared. Declared, they are never called: vLLM only wants the
import to work. The .pth file beside this one loads it in every process of the environment, which costs one
import hook.
"""

import sys
from importlib.machinery import ModuleSpec

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _BeforeTorchvision:
    """Is asked for every module; finds none, and goes when torchvision is looked for."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            import torch

            if torch.version.cuda is None:
                for operator in _OPERATORS:
                    torch.library.define(f"torchvision::{operator}", _SCHEMA)
        return None


sys.meta_path.insert(0, _BeforeTorchvision())  # type: ignore[arg-type]
