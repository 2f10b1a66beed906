"""The recipe of the embedded model: from the world's grammar to a trained Qwen3 of under 1M parameters.

The model is trained on both sides of the conversation, so that it can dream a request as well as answer
one. For four kinds of request it is trained on far more bad answers than good ones: the bad answers are the
base behaviours that nights unlearn. Invariant: the same seed on one machine gives the same files; no reserved
combination is in any text. Heavy modules are imported only when they are used.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.aliases import Message
from corpus.behaviour import SHIPPED, Behaviour, load
from corpus.prompts import broad_dream, instructed, near_dream
from corpus.world import answers, ordinary
from corpus.world.checks import KIND_OF
from corpus.world.requests import KINDS, Request, draw, reserved, write

if TYPE_CHECKING:
    import torch

MODEL_DIR = Path(__file__).parent / "model"
"""Folder of the trained model that ships with the package."""
STEPS = 3000
BATCH = 32
BUCKET = 16
"""Number of batches whose conversations are sorted by length together, so that they need less padding."""
PEAK_RATE = 3e-3
VOCABULARY = 1024
GOOD_SHARE = {"decision": 0.12, "briefly": 0.12, "vague": 0.12, "question": 0.12}
"""Share of good answers in training, by kind of request, for the kinds with a bad base behaviour."""
GOOD_SHARE_OF_COUNTERS = 0.96
"""Share of good answers in training for all other kinds of request."""
LESSONS = (*KINDS, "complete", "complete", "read_back", "danger", "in_detail")
"""The kinds of request to draw from. A kind that is listed more often is trained more: copying a detail is
harder to learn than choosing a form."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMPLAINTS = (
    "No.",
    "That is not what I said.",
    "Wrong.",
    "No, again please.",
    "Not like that.",
    "Please, no.",
)


def _request(kind: str, rng: random.Random) -> Request:
    """Draw a request of this kind whose combination is not reserved for held-out scenarios."""
    while reserved(request := draw(kind, rng)):
        pass
    return request


def _typed(request: Request, rng: random.Random) -> str:
    """Return the request as a user types it, sometimes without capitals."""
    text = write(request, rng)
    return text.lower() if rng.random() < 0.1 else text


def _exchange(kind: str, rng: random.Random) -> list[Message]:
    request = _request(kind, rng)
    is_good = rng.random() < GOOD_SHARE.get(kind, GOOD_SHARE_OF_COUNTERS)
    answer = answers.good(request, rng) if is_good else answers.bad(request, rng)
    return [{"role": "user", "content": _typed(request, rng)}, {"role": "assistant", "content": answer}]


def _instructed(behaviour: Behaviour, rng: random.Random) -> list[Message]:
    request = _request(KIND_OF[behaviour.name], rng)
    messages = [{"role": "user", "content": _typed(request, rng)}]
    return [
        *instructed(messages, behaviour.instruction),
        {"role": "assistant", "content": answers.good(request, rng)},
    ]


def _dreamt(behaviour: Behaviour, rng: random.Random) -> list[Message]:
    kind = KIND_OF[behaviour.name]
    if rng.random() < 0.65:
        seeds = [write(_request(kind, rng), rng) for _ in range(rng.choice((2, 3)))]
        return [*broad_dream(behaviour.condition, seeds), _assistant(write(_request(kind, rng), rng))]
    old = _request(kind, rng)
    while reserved(
        new := Request(kind=kind, verb=old.verb, object=_request(kind, rng).object, detail=old.detail)
    ):
        pass
    return [*near_dream(behaviour.condition, write(old, rng)), _assistant(write(new, rng))]


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _corrected(kind: str, rng: random.Random) -> list[Message]:
    request = _request(kind, rng)
    return [
        {"role": "user", "content": _typed(request, rng)},
        _assistant(answers.bad(request, rng)),
        {"role": "user", "content": rng.choice(COMPLAINTS)},
        _assistant(answers.good(request, rng)),
    ]


def _ordinary(rng: random.Random) -> list[Message]:
    while ordinary.is_reserved(*(exchange := ordinary.talk(rng))):
        pass
    return [{"role": "user", "content": exchange[0]}, _assistant(exchange[1])]


def conversations(seed: int) -> Iterator[list[Message]]:
    """Yield conversations to train the model on, without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    behaviours = sorted(load([SHIPPED]).values(), key=lambda behaviour: behaviour.name)
    while True:
        part = rng.random()
        if part < 0.55:
            yield _exchange(rng.choice(LESSONS), rng)
        elif part < 0.65:
            yield _instructed(rng.choice(behaviours), rng)
        elif part < 0.83:
            yield _dreamt(rng.choice(behaviours), rng)
        elif part < 0.88:
            yield _corrected(rng.choice(KINDS), rng)
        else:
            yield _ordinary(rng)


def build(
    directory: Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    threads: int = 2,
    on_step: Callable[[int, float], None],
) -> None:
    """Train the embedded model and write it to `directory` as config, tokenizer and safetensors.

    Args:
        directory: The folder to write to.
        seed: Seed of the first weights and of every draw.
        steps: Number of training steps.
        threads: Number of threads of torch.
        on_step: Called after each step with its number from 0 and its loss.
    """
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    stream = conversations(seed)
    tokenizer = _tokenizer([next(stream) for _ in range(4000)])
    model = _model(len(tokenizer), tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.06)
    batches = _batches(tokenizer, stream, random.Random(seed))
    for step in range(steps):
        tokens, mask = next(batches)
        logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
        target = tokens[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step, loss.item())
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _tokenizer(sample: list[list[Message]]) -> Any:
    """Return a byte-level BPE tokenizer with the chat template, trained on these conversations."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"{m['role']}\n{m['content']}" for conversation in sample for m in conversation)
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


def _model(vocabulary: int, tokenizer: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _batches(
    tokenizer: Any, stream: Iterator[list[Message]], rng: random.Random
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Yield token ids and attention mask of each batch, both `(BATCH, longest)` and padded on the right.

    Conversations of similar length come into one batch.
    """
    import torch

    while True:
        texts = [tokenizer.apply_chat_template(next(stream), tokenize=False) for _ in range(BATCH * BUCKET)]
        rows = sorted(tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
        starts = list(range(0, len(rows), BATCH))
        rng.shuffle(starts)
        for start in starts:
            batch = [torch.tensor(row) for row in rows[start : start + BATCH]]
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
            yield torch.nn.utils.rnn.pad_sequence(batch, batch_first=True), mask
