"""Names for the shapes that all four packages hand to each other. Imports none of ours."""

from collections.abc import Awaitable, Callable
from typing import Any

Json = dict[str, Any]
"""A JSON object: what crosses a socket, a file or `--json`, and nothing inside the program."""

Message = dict[str, str]
"""One message of a chat: `role` and `content`."""

Progress = Callable[[int, int], Awaitable[None]]
"""Called with how much of a piece of work is done, and how much there is."""
