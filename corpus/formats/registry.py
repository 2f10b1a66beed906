"""The readers of all log formats; the first that recognises a record reads it: the general ones are last."""

from corpus.formats.agents import claude_code, gemini_cli, letta
from corpus.formats.chats import chatgpt, claude_ai, librechat, lm_studio, open_webui
from corpus.formats.datasets import hh, sharegpt, trl
from corpus.formats.format import Format
from corpus.formats.interfaces import openai
from corpus.formats.traces import litellm

FORMATS: tuple[Format, ...] = (
    claude_code.FORMAT,
    gemini_cli.FORMAT,
    letta.FORMAT,
    chatgpt.FORMAT,
    claude_ai.FORMAT,
    librechat.FORMAT,
    lm_studio.FORMAT,
    open_webui.FORMAT,
    litellm.FORMAT,
    hh.FORMAT,
    trl.FORMAT,
    sharegpt.FORMAT,
    openai.FORMAT,
)
