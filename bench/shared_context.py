"""What a shared frozen context costs on conversations as people have them.

    python -m bench.shared_context [--model DIR] [--threads 2] [--repeats 1] [--talks 3] [--json]

Each example is a conversation of 2,000 tokens, put together from the bundled conversations of
`corpus/real/` (a system prompt, then exchanges, cut before an answer), and two answers of 100 tokens: a pair.
`full` sends the context with each answer through the model, forward and backward; `frozen` is the trainer's
pass, which reads the context once and without gradients. The figure is the share of full's process CPU time.
`floor` is the same share of the products of matrices, to leading order: (C + 6 T) / (6 (C + T)).

`--model` names a directory of SmolLM2-135M-Instruct (`nightschool model smollm2` makes one), whose tokenizer
and template make the tokens. Without it the weights are random ones of the same shape, and the shipped
model's tokenizer makes the tokens: the cost depends on the numbers of tokens only.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid

from agents.model.embedded.chat import ChatTokenizer
from agents.trainer.scoring import prefix_scoring
from bench import _table
from bench._table import Goal
from corpus.aliases import Message
from corpus.recipe import MODEL_DIR

CONTEXT, ANSWER = 2000, 100
"""Tokens of a conversation, and of each of its two answers."""
TALKS = Path(__file__).parent.parent / "corpus" / "real" / "conversations"
BETA = 0.25
GOAL = 1.25
"""Largest ratio of the frozen pass's share to the floor, which counts no attention and no logits."""
SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
"""The configuration of SmolLM2-135M-Instruct."""


def main() -> int:
    """Print the table; return 1 when the goal is missed."""
    parser = _table.parser(__doc__)
    parser.add_argument("--model", type=Path, default=None, help="directory of SmolLM2-135M-Instruct")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--talks", type=int, default=3, help="number of conversations")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = model(options.model)
    tokenizer = chat_tokenizer(options.model or MODEL_DIR)
    rows, shares = [], []
    floor = (CONTEXT + 6 * ANSWER) / (6 * (CONTEXT + ANSWER))
    for number in range(options.talks):
        context, answers = example(tokenizer, random.Random(number), network.config.vocab_size)
        figures = measured(network, context, answers, options.repeats)
        shares.append(figures["share"])
        rows.append([number + 1, len(context), ANSWER, *figures.values(), floor])
    heads = ["talk", "context", "answers", "full CPU ms", "frozen CPU ms", "share", "differs by", "floor"]
    _table.show("a pair, forward and backward, float32", heads, rows)
    mean = sum(shares) / len(shares)
    goal = Goal(name="mean share / floor", found=mean / floor, limit=GOAL)
    result = {"model": str(options.model or "random weights"), "share": mean, "floor": floor}
    return _table.finish(result, [goal], as_json=options.json)


def model(directory: Path | None) -> Any:
    """Return the model of this directory, or one of the same shape with random weights, in float32."""
    import transformers

    if directory is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SHAPE)).eval()


def chat_tokenizer(directory: Path) -> ChatTokenizer:
    """Return the chat tokenizer of the model in this directory."""
    import transformers

    return ChatTokenizer(transformers.AutoTokenizer.from_pretrained(directory))


def example(
    tokenizer: ChatTokenizer, draw: random.Random, vocabulary: int
) -> tuple[list[int], list[list[int]]]:
    """Return the tokens of a conversation of CONTEXT tokens, and of two answers of ANSWER tokens each.

    The conversation is cut at its beginning to the exact number; its system prompt stays.
    """
    talks = [json.loads(line)["messages"] for path in sorted(TALKS.glob("*.jsonl")) for line in path.open()]
    talks = [talk for talk in talks if talk[0]["role"] in ("system", "user")]
    draw.shuffle(talks)
    opened = next(talk for talk in talks if talk[0]["role"] == "system")
    joined: list[Message] = [opened[0]]
    tokens: list[int] = []
    for talk in talks:
        spoken = [message for message in talk if message["role"] != "system"]
        pairs = [pair for pair in zip(spoken[::2], spoken[1::2], strict=False)]
        joined += [message for pair in pairs for message in pair]
        tokens = tokenizer.encode_chat([*joined, spoken[0]])
        if len(tokens) >= CONTEXT:
            break
    head = len(tokenizer.encode_chat(joined[:1], add_generation_prompt=False))
    context = [*tokens[:head], *tokens[head - CONTEXT :]]
    words = [m["content"] for talk in talks for m in talk if m["role"] == "assistant"]
    answers = [tokenizer.encode(" ".join(words[start::2]))[:ANSWER] for start in (0, 1)]
    return [t % vocabulary for t in context], [[t % vocabulary for t in answer] for answer in answers]


def measured(network: Any, context: list[int], answers: list[list[int]], repeats: int) -> dict[str, float]:
    """Return the CPU milliseconds of both ways, the share, and by how much their log-probabilities differ."""
    rows = torch.tensor([[*context, *answer] for answer in answers])
    totals: dict[str, torch.Tensor] = {}

    def backward(name: str, each: torch.Tensor) -> None:
        totals[name] = each.detach()
        network.zero_grad(set_to_none=True)
        (-logsigmoid(BETA * (each[0] - each[1]) / ANSWER)).backward()

    def full() -> None:
        hidden = network.base_model(input_ids=rows, use_cache=False).last_hidden_state
        logits = network.lm_head(hidden[:, len(context) - 1 : -1]).flatten(0, 1)
        lost = cross_entropy(logits, rows[:, len(context) :].flatten(), reduction="none")
        backward("full", -lost.view(len(answers), -1).sum(1))

    def frozen() -> None:
        sides = prefix_scoring.scores(network, [context], [[answer] for answer in answers], train=True)
        backward("frozen", torch.cat([side.total for side in sides]))

    timings = _table.interleaved({"full": full, "frozen": frozen}, repeats=repeats, warmup=0)
    differs = float((totals["full"] - totals["frozen"]).abs().max())
    full_ms, frozen_ms = timings["full"].cpu_ms, timings["frozen"].cpu_ms
    return {"full": full_ms, "frozen": frozen_ms, "share": frozen_ms / full_ms, "differs": differs}


if __name__ == "__main__":
    sys.exit(main())
