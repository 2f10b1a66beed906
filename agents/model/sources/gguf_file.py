"""The reader of a GGUF file: its metadata, and its tensors as float32 arrays.

Invariant: a file that is cut short, damaged or of an unknown kind is refused with one sentence. Only this
module imports the package `gguf`, and only when a file is opened. This module knows nothing about model
families.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus.errors import ConfigError, IntegrityFault

INSTALL = "pip install 'nightschool[real]' (in a checkout: pip install -e '.[real]')"
"""The command that installs the packages for GGUF files."""
_MAGIC = b"GGUF"
_BROKEN = (ValueError, IndexError, KeyError, TypeError, OverflowError)
"""The exceptions of the package's reader for a file that it cannot read."""


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """An open GGUF file."""

    path: Path
    fields: Any
    """The metadata by key, as the package `gguf` returns it."""
    tensors: dict[str, Any]
    """The tensors by name, in the order of the file, as the package `gguf` returns them."""

    @property
    def family(self) -> str:
        """The name of the model's architecture, such as `llama`."""
        return self.text("general.architecture")

    @property
    def quantization(self) -> str:
        """A text that lists the types of the tensors, with the number of tensors of each type."""
        counts = Counter(tensor.tensor_type.name for tensor in self.tensors.values())
        return ", ".join(f"{name}: {count} tensors" for name, count in counts.most_common())

    @property
    def is_bfloat16(self) -> bool:
        """Whether the matrices are bfloat16, so not quantized; norms may be float32."""
        types = {tensor.tensor_type.name for tensor in self.tensors.values()}
        return "BF16" in types and types <= {"BF16", "F32"}

    def value(self, key: str, default: Any = None) -> Any:
        """Return the metadata value of `key`; `default` if the file lacks the key."""
        field = self.fields.get(key)
        if field is None:
            return default
        try:
            return field.contents()
        except _BROKEN as error:
            raise self.damaged(f"{key}: {error}") from error

    def text(self, key: str) -> str:
        """Return the text of the metadata key, which the file must have."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self.damaged(f"it does not say {key}")
        return value

    def whole(self, key: str, default: int | None = None) -> int:
        """Return the whole number of the metadata key; without a default, the file must have the key."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.damaged(f"it does not say {key}, or not as a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return the number of the metadata key; without a default, the file must have the key."""
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.damaged(f"it does not say {key}, or not as a number")
        # The file has 32 bits for a number; without rounding, 1e-05 becomes 9.999999747378752e-06.
        return float(f"{value:.7g}")

    def read(self, name: str) -> Any:
        """Return the tensor `name`, dequantized: a float32 array with its dimensions in torch's order."""
        import numpy as np
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        kind = tensor.tensor_type.name
        try:
            array = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        except NotImplementedError as error:
            raise ConfigError(
                f"{self.path} holds {name} as {kind}, which cannot be dequantized here: get the model in "
                "another quantization, such as Q8_0, or as safetensors"
            ) from error
        if not np.isfinite(array).all():
            raise self.damaged(f"{name} holds numbers that are not finite")
        return array

    def damaged(self, reason: str) -> IntegrityFault:
        """Return, not raise, the error for a file whose content makes no sense for this reason."""
        return IntegrityFault(f"{self.path} is not a GGUF file of a model ({reason}): download it again")


def open_gguf(path: Path) -> GgufFile:
    """Open the GGUF file at `path` and read its header.

    Raises:
        ConfigError: The package `gguf` is missing, or does not know the file's version or quantization.
        IntegrityFault: It is not a GGUF file, or is cut short or damaged.
    """
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(f"{path} is a GGUF file, which needs the package gguf: {INSTALL}") from error
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise IntegrityFault(f"{path} is not a GGUF file: it does not begin as one. Download it again")
    try:
        reader = gguf.GGUFReader(path)
    except _BROKEN as error:
        if "GGMLQuantizationType" in str(error):
            raise ConfigError(
                f"{path} holds a quantization type that is not known here ({error}): upgrade the "
                "package gguf, or get the model in another quantization, such as Q8_0"
            ) from error
        if "version" in str(error):
            raise ConfigError(
                f"{path} is a GGUF file of an unknown version ({error}): upgrade the package gguf"
            ) from error
        raise IntegrityFault(f"{path} is cut short or damaged ({error}): download it again") from error
    return GgufFile(
        path=path, fields=reader.fields, tensors={tensor.name: tensor for tensor in reader.tensors}
    )
