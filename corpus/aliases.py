"""Names for the types that all four packages exchange.

One name for each, so that no package writes its own alias. This module imports nothing of ours.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Json = dict[str, Any]
"""A JSON object, as it crosses a socket, a file or `--json`; inside the program a record takes its place."""

Message = dict[str, str]
"""One message of a chat: `role` and `content`."""

Progress = Callable[[int, int], Awaitable[None]]
"""Called with the number of steps done and the number of all steps."""
