"""Print ten answers before and after a night side by side, as a Markdown table.

    nightschool --home HOME checkpoints export active AFTER
    python docs/answers.py BEFORE AFTER HOME/behaviours --seed 1

BEFORE and AFTER are Hugging Face directories. Which of the held-out requests are asked, and how the answers
are sampled, depends on the seed alone, so nobody picks the answers that look best.

Invariant: both models are asked the same requests with the same seeds, at temperature 0.7.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.evaluator.judge import judge
from corpus.behaviour import Behaviour, load

COUNT, TEMPERATURE, MAX_TOKENS, SHOWN = 10, 0.7, 192, 220
"""Requests; sampling temperature; most tokens of an answer; most characters that are shown of it."""


def drawn(behaviours: Path, seed: int) -> list[tuple[Behaviour, str]]:
    """Return COUNT held-out requests of these behaviours, each with its behaviour."""
    every = [(each, text) for each in load([behaviours]).values() for text in each.held_out]
    return random.Random(seed).sample(every, COUNT)


def answers(directory: Path, requests: list[str], seed: int) -> list[str]:
    """Return a model's answer to each request."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    texts = []
    for index, request in enumerate(requests):
        torch.manual_seed(seed * 1000 + index)
        row = tokenizer.apply_chat_template(
            [{"role": "user", "content": request}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        made = model.generate(
            **row,
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            max_new_tokens=MAX_TOKENS,
            pad_token_id=tokenizer.eos_token_id,
        )
        texts.append(tokenizer.decode(made[0, row["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    return texts


def cell(behaviour: Behaviour, request: str, answer: str) -> str:
    """Return an answer as a cell of a table, with a mark for whether it passes its behaviour's judge."""
    passed = judge(behaviour, [{"role": "user", "content": request}], answer).passed
    text = " ".join(answer.split()).replace("|", "\\|")
    return f"{'pass' if passed else 'fail'}: {text[:SHOWN]}{'...' if len(text) > SHOWN else ''}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("behaviours", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    asked = drawn(options.behaviours, options.seed)
    requests = [text for _, text in asked]
    columns = [answers(place, requests, options.seed) for place in (options.before, options.after)]
    lines = ["| behaviour | request | before | after |", "|---|---|---|---|"]
    for (behaviour, request), *pair in zip(asked, *columns, strict=True):
        before, after = (cell(behaviour, request, answer) for answer in pair)
        lines.append(f"| {behaviour.name} | {request} | {before} | {after} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
