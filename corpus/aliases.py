"""Names for the types that all four packages exchange.

Each type has one name, so that no package writes its own alias. This module imports no other module of
Nightschool.
"""

from collections.abc import Awaitable, Callable
from typing import Any

Json = dict[str, Any]
"""A JSON object as a socket, a file or `--json` has it; inside the program a record is used instead."""

Message = dict[str, Any]
"""One message of a chat, as chat templates take it: `role` and `content`, both text.

An assistant's message may have `tool_calls` in OpenAI's form, and the message of a tool `tool_call_id`;
either may have `name`.
"""

Progress = Callable[[int, int], Awaitable[None]]
"""A callback that gets the number of finished steps and the number of all steps."""
