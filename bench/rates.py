"""The learning rate that an update finds: what the size of the first step does to an update, on two models.

    python -m bench.rates [--model DIR] [--objectives orpo dpo] [--shares 0.0002 0.0006 ...] [--json]
    python -m bench.rates --speed [--model DIR]

Each update trains the model from the same weights with another rate, given as the norm of a fresh optimizer's
first step over the norm of the weights. That share is what `training.lr = "auto"` sets
(agents/trainer/update/rates.py). Without `--model` it is the shipped model, on 64 pairs of its own answers.
With `--model` it is another one, on pairs that it makes itself: its short answer (told so at the end of the
message) against its plain one, and for requests in detail the other way round. A share is judged on pairs
that no update saw: their loss and the share of them whose chosen answer is preferred, and on the perplexity
of ordinary text. `--speed` times a training step in the weights' type and in bfloat16 instead.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import transformers

from agents.model.weights import views
from agents.model.weights.shared import SharedWeights
from agents.model.weights.snapshot import raw_weights, restore
from agents.trainer.messages import Example, Objective, Settings, TrainRequest
from agents.trainer.scoring import prefix_scoring
from agents.trainer.scoring.compute import resolve
from agents.trainer.update.objective import loss_of, with_references
from agents.trainer.update.rates import FIRST_SHARE, WARMUP_STEPS
from agents.trainer.update.training import TrainerContext, run_update
from bench import _table
from bench._embedded import Embedded
from corpus.aliases import Message
from store.checkpoints.store import CheckpointStore

SHARES = (0.0002, 0.0006, 0.0016, 0.004, 0.008)
BATCH, EPOCHS, BETA = 8, 2, 0.25
HELD_OUT = 1 / 3
"""Share of the pairs that no update sees."""
LONGEST = 64
"""Most tokens of an answer."""
TOPICS = (
    *("sleep better", "keep basil alive", "stop a tap from dripping", "remember names", "learn a language"),
    *("clean a cast iron pan", "save money on food", "sharpen a kitchen knife", "calm down before a talk"),
    *("start running", "keep bread fresh", "choose a bicycle", "store potatoes", "write a good email"),
    *("train a puppy", "fix a squeaky door", "pack a small suitcase", "make strong coffee", "cook rice"),
    *("paint a wall", "stop procrastinating", "grow tomatoes", "wash a wool jumper", "make new friends"),
)
ORDINARY = (
    "The Moon goes round the Earth in about twenty-seven days, and always shows the same side.",
    "Dear Sir, thank you for your letter of last week. We are glad to send you the parts that you asked for.",
    "Photosynthesis turns light, water and carbon dioxide into sugar and oxygen; plants do it in leaves.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model on shared weights of its own, with pairs to learn from and pairs to judge by."""

    context: TrainerContext
    first: str
    """Checkpoint that every update starts from."""
    seen: Sequence[Example]
    held_out: Sequence[Example]
    ordinary: Sequence[Sequence[int]]


def main() -> int:
    """Print the table and check that the share that `auto` takes is among the good ones."""
    parser = _table.parser(__doc__, threads=1)
    parser.add_argument("--model", type=Path, help="Hugging Face directory (default: the shipped model)")
    parser.add_argument("--objectives", nargs="+", default=["orpo", "dpo"], choices=get_args(Objective))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as directory:
        subject = (foreign if options.model else shipped)(Path(directory), options.model)
        if options.speed:
            return speed(subject, as_json=options.json)
        runs = [run for name in options.objectives for run in sweep(subject, name, options.shares)]
    heads = ["objective", "first share", "rate", "steps", "held-out loss", "prefers chosen", "perplexity"]
    columns = ("objective", "share", "lr", "steps", "loss", "accuracy", "perplexity")
    _table.show(
        f"{len(subject.seen)} pairs, {EPOCHS} passes in batches of {BATCH}, {WARMUP_STEPS} warm-up steps",
        heads,
        [[run[name] for name in columns] for run in runs],
    )
    goals = [goal for name in options.objectives for goal in goals_of(name, runs)]
    return _table.finish({"runs": runs}, goals, as_json=options.json)


def goals_of(objective: str, runs: Sequence[dict[str, Any]]) -> list[_table.Goal]:
    """Return the goals: the rate that is found lowers the loss as the best does, and spares other text."""
    own = [run for run in runs if run["objective"] == objective]
    parent, auto = (next(run for run in own if run["share"] == share) for share in ("parent", "auto"))
    gains = [parent["loss"] - run["loss"] for run in own]
    gained = (parent["loss"] - auto["loss"]) / max(*gains, 1e-9)
    return [
        _table.Goal(name=f"{objective}: share of the best gain", found=gained, limit=0.6, at_least=True),
        _table.Goal(
            name=f"{objective}: perplexity, auto / parent",
            found=auto["perplexity"] / parent["perplexity"],
            limit=1.25,
        ),
    ]


def sweep(subject: Subject, objective: Objective, shares: Sequence[float]) -> list[dict[str, Any]]:
    """Train with each first share, and with the rate that is found; judge the parent too."""
    context, auto = subject.context, Settings(lr="auto", batch_size=BATCH, epochs=EPOCHS, beta=BETA)
    auto = replace(auto, compute=resolve("auto", context.model) if len(subject.ordinary[0]) else "weights")
    request = TrainRequest(
        objective=objective, settings=auto, seed=0, parent=subject.first, examples=subject.seen
    )
    restore(context.shared, context.store, subject.first, clean=True)
    judged = with_references(context.model, replace(request, examples=subject.held_out))
    runs = [{"share": "parent", "lr": 0.0, "steps": 0, **judge(subject, request, judged)}]
    found, _ = run_update(context, request, lambda _: None, lambda: None)
    runs.append({"share": "auto", "lr": found.lr, "steps": found.steps, **judge(subject, request, judged)})
    for share in shares:
        lr = found.lr * share / FIRST_SHARE
        given = replace(auto, lr=lr, warmup_steps=WARMUP_STEPS, norm_cap=1.0)
        done, _ = run_update(context, replace(request, settings=given), lambda _: None, lambda: None)
        runs.append({"share": share, "lr": lr, "steps": done.steps, **judge(subject, request, judged)})
    return [{"objective": objective, **run} for run in runs]


@torch.no_grad()
def judge(subject: Subject, request: TrainRequest, held_out: Sequence[Example]) -> dict[str, float]:
    """Return the loss and accuracy on held-out pairs, and the perplexity of ordinary text."""
    model, settings = subject.context.model, request.settings
    loss = loss_of(model, request.objective, settings, held_out, train=False)
    rows = [row[1:] for row in subject.ordinary]
    starts = [row[:1] for row in subject.ordinary]
    (text,) = prefix_scoring.scores(model, starts, [rows], train=False)
    return {
        "loss": float(loss.value),
        "accuracy": loss.metrics["accuracy"],
        "perplexity": float(torch.exp(-text.total.sum() / text.tokens.sum())),
    }


def speed(subject: Subject, *, as_json: bool) -> int:
    """Time one training step in each type."""
    context, rows = subject.context, subject.seen[:BATCH]

    def step(compute: Any) -> None:
        settings = Settings(lr=1e-9, batch_size=BATCH, compute=compute)
        request = TrainRequest(
            objective="orpo", settings=settings, seed=0, parent=subject.first, examples=rows
        )
        loss_of(context.model, "orpo", request.settings, rows, train=True).value.backward()
        context.model.zero_grad(set_to_none=True)

    context.model.requires_grad_(True)
    kinds = ("weights", "bfloat16")
    times = _table.interleaved({kind: (lambda kind=kind: step(kind)) for kind in kinds}, repeats=3)
    tokens = sum(len(row.context) + len(row.chosen) + len(row.rejected) for row in rows)
    _table.show(
        f"a step of {len(rows)} pairs, {tokens} tokens",
        ["matrices in", "s", "CPU s"],
        [[kind, times[kind].wall_ms / 1e3, times[kind].cpu_ms / 1e3] for kind in kinds],
    )
    ratio = times["weights"].cpu_ms / times["bfloat16"].cpu_ms
    goal = _table.Goal(name="CPU time, weights / bfloat16", found=ratio, limit=1.3, at_least=True)
    quicker = [goal] if resolve("auto", context.model) == "bfloat16" else []
    return _table.finish({"ratio": ratio}, quicker, as_json=as_json)


# ---------------------------------------------------------------- models and their pairs


def shipped(directory: Path, _: Path | None) -> Subject:
    """Return the shipped model, and pairs of its own answers."""
    model = Embedded(directory, layer=2)
    pairs = model.pairs("listen", 96)
    cut = round(len(pairs) * HELD_OUT)
    ordinary = [model.text.encode(text) for text in ("Good morning.", "The bench is wet again.")]
    return Subject(
        context=model.bench,
        first=model.first,
        seen=pairs[cut:],
        held_out=pairs[:cut],
        ordinary=ordinary,
    )


def foreign(directory: Path, source: Path) -> Subject:
    """Return another model, and pairs of its own short and plain answers."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    pairs = own_pairs(loaded, tokenizer)
    shared = SharedWeights.create(
        directory / "weights.bin",
        dict(loaded.named_parameters(remove_duplicate=False)),
        model=str(source),
    )
    store = CheckpointStore(directory / "checkpoints")
    shared.holds = first = store.write(raw_weights(shared), None, {}).id
    cut = round(len(pairs) * HELD_OUT)
    return Subject(
        context=TrainerContext(shared=shared, model=views.build(shared, source), store=store),
        first=first,
        seen=pairs[cut:],
        held_out=pairs[:cut],
        ordinary=[tokenizer(text)["input_ids"] for text in ORDINARY],
    )


def own_pairs(model: Any, tokenizer: Any) -> list[Example]:
    """Return pairs of the model's own answers, short ones preferred, and long ones if the request says so."""
    plain = [f"How do I {topic}?" for topic in TOPICS]
    detailed = [f"Explain to me in detail how to {topic}." for topic in TOPICS[::2]]
    pairs = []
    for requests, prefers_short in ((plain, True), (detailed, False)):
        short = generated(model, tokenizer, [f"{text} Answer in one short sentence." for text in requests])
        usual = generated(model, tokenizer, requests)
        for text, one, two in zip(requests, short, usual, strict=True):
            if len(one) + 8 < len(two):
                context = chat(tokenizer, text)
                chosen, rejected = (one, two) if prefers_short else (two, one)
                pairs.append(Example(context=context, chosen=chosen, rejected=rejected))
    random.Random(0).shuffle(pairs)
    return pairs


def chat(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a conversation of one message."""
    talk: list[Message] = [{"role": "user", "content": text}]
    ids: list[int] = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    return ids


@torch.no_grad()
def generated(model: Any, tokenizer: Any, requests: Sequence[str]) -> list[list[int]]:
    """Return the tokens of an answer to each request, with the token that ends it, if it ended."""
    answers = []
    for number, text in enumerate(requests):
        torch.manual_seed(number)
        context = torch.tensor([chat(tokenizer, text)])
        out = model.generate(
            context,
            attention_mask=torch.ones_like(context),
            max_new_tokens=LONGEST,
            do_sample=True,
            temperature=0.7,
            top_p=0.95,
            pad_token_id=0,
        )
        answers.append(out[0, context.shape[1] :].tolist())
    return answers


if __name__ == "__main__":
    sys.exit(main())
