"""Names for the types that all four packages exchange.

Each type has one name, so that no package writes its own alias. This module imports no other module of
Nightschool.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Json = dict[str, Any]
"""A JSON object as a socket, a file or `--json` has it; inside the program a record is used instead."""

Message = dict[str, str]
"""One message of a chat: `role` and `content`."""

Progress = Callable[[int, int], Awaitable[None]]
"""A callback that gets the number of finished steps and the number of all steps."""
