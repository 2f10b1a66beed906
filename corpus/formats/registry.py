"""The readers of all log formats. The first that recognises a record reads it: general ones come last."""

from corpus.formats.agents import aider, claude_code, codex, cursor, gemini_cli, letta, opencode
from corpus.formats.chats import (
    chatgpt,
    claude_ai,
    jan,
    librechat,
    llm,
    lm_studio,
    open_webui,
    sillytavern,
)  # fmt: skip
from corpus.formats.datasets import alpaca, arena, hh, lmsys, oasst, sharegpt, trl, ultrafeedback
from corpus.formats.format import Format
from corpus.formats.interfaces import batch, openai, responses, stored
from corpus.formats.traces import gen_ai, helicone, langfuse, langsmith, litellm, openinference

FORMATS: tuple[Format, ...] = (
    claude_code.FORMAT,
    codex.FORMAT,
    gemini_cli.FORMAT,
    opencode.FORMAT,
    cursor.FORMAT,
    aider.FORMAT,
    letta.FORMAT,
    chatgpt.FORMAT,
    claude_ai.FORMAT,
    librechat.FORMAT,
    lm_studio.FORMAT,
    open_webui.FORMAT,
    jan.FORMAT,
    llm.FORMAT,
    sillytavern.FORMAT,
    litellm.FORMAT,
    helicone.FORMAT,
    langsmith.FORMAT,
    openinference.FORMAT,
    gen_ai.FORMAT,
    langfuse.FORMAT,
    batch.FORMAT,
    stored.FORMAT,
    responses.FORMAT,
    arena.FORMAT,
    oasst.FORMAT,
    ultrafeedback.FORMAT,
    lmsys.FORMAT,
    hh.FORMAT,
    trl.FORMAT,
    sharegpt.FORMAT,
    openai.FORMAT,
    alpaca.FORMAT,
)
