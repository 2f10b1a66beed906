"""Reader of OpenAI's Responses interface: a request with its response, or input and output items together."""

from typing import Any

from corpus.formats.exchange import Paths, read_exchange
from corpus.formats.format import Format, Reading
from corpus.formats.parts import at, first, parsed
from corpus.lines import BadLine

NAME = "responses"

_PATHS = Paths(
    needs=(),
    request=("request.body", "request", "body", ""),
    response=("response.body.output", "response.body.output_text", "response.output", "response", "output"),
)
_INPUTS = ("input", "request.input", "request.body.input", "body.input")
_OUTPUTS = ("output", "response.output", "response.body.output", "response")
_SIGNS = ("message", "function_call", "reasoning", "custom_tool_call")


def recognises(value: Any) -> bool:
    """Return whether a value has an input and items as its output, or is a response by itself."""
    if not isinstance(value, dict):
        return False
    if value.get("object") == "response" and isinstance(value.get("output"), list):
        return True
    output = parsed(first(value, _OUTPUTS))
    items = isinstance(output, list) and at(output, "0.type") in _SIGNS
    return items and first(value, _INPUTS) is not None


def read(value: Any, line: int) -> Reading:
    """Return the conversation of a response, or a BadLine with the reason.

    Args:
        value: The decoded record.
        line: The number of its line, from 1.
    """
    if not recognises(value):
        return BadLine(line=line, reason='no "input" and no items as "output"')
    if first(value, _INPUTS) is None:
        return BadLine(line=line, reason='a response without its request: no "input"')
    return read_exchange(value, line, _PATHS, NAME)


FORMAT = Format(
    name=NAME,
    title="The Responses interface of OpenAI: requests with their responses",
    seen="input as a text and as items; output items",
    link="https://platform.openai.com/docs/api-reference/responses",
    recognises=recognises,
    read=read,
)
