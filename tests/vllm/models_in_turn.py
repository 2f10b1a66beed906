"""Serve tiny models by the real vLLM, one after another, each in a child of its own, and record the results.

    python models_in_turn.py FOLDER CASE...      (for each case FOLDER/CASE.json and FOLDER/CASE.log)

vLLM is imported once, before the children are forked. A child runs the engine in its own process, and opens
the shared weights as a trainer does: through a second mapping of the same file.
"""

import json
import os
import re
import sys
import traceback
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny_models
import torch

PROMPT = [(7 * place * place + 3 * place + 11) % tiny_models.VOCABULARY for place in range(1, 40)]
NEW = 8
"""Tokens that are generated after it, by the kernels for one token at a time."""
MEMORY, PIECES = Path("/dev/shm"), "vllm_dist_*"
"""Files that vLLM's own workers leave behind when there are two."""


@dataclass(frozen=True, kw_only=True)
class Case:
    model: str
    dtype: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    looks: bool = True
    """Whether the shared weights are checked, or only the answer."""


HYBRID = {"block_size": 32}
CASES = {
    "qwen3-tied": Case(model="qwen3-tied"),
    "qwen3": Case(model="qwen3"),
    "llama": Case(model="llama"),
    "qwen2": Case(model="qwen2"),
    "qwen3.5": Case(model="qwen3.5", dtype="bfloat16", options=HYBRID),
    "qwen3.5-sees": Case(
        model="qwen3.5-sees", dtype="bfloat16", options=HYBRID | {"language_model_only": True}
    ),
    "narrowed": Case(model="qwen3", dtype="bfloat16", looks=False),
    "moe": Case(model="moe", looks=False),
    "unknown family": Case(model="gemma", looks=False),
    "quantized": Case(  # in bfloat16: with AMX the int8 kernel takes no float32 activations
        model="quantized", dtype="bfloat16", options={"load_format": "dummy"}, looks=False
    ),
    "draft": Case(
        model="qwen3", options={"speculative_config": {"model": "qwen3-tied", "num_speculative_tokens": 2}}
    ),
    "two pieces": Case(model="qwen3", options={"tensor_parallel_size": 2}, looks=False),
    "overridden": Case(model="qwen3", options={"hf_overrides": {"rope_theta": 5000.0}}, looks=False),
}


class Engine:
    """A vLLM, and its answer to the prompt."""

    def __init__(self, case: Case, directory: Path) -> None:
        from vllm import LLM

        self._llm = LLM(
            str(directory),
            dtype=case.dtype,
            skip_tokenizer_init=True,
            enforce_eager=True,
            enable_prefix_caching=False,  # a test of its own shows what a cache makes of edits
            max_model_len=128,
            max_num_seqs=4,
            kv_cache_memory_bytes=1 << 26,
            disable_log_stats=True,
            **case.options,
        )

    def answer(self) -> tuple[list[int], list[float]]:
        """Return the answer's tokens, and the log-probabilities of the prompt's and its own tokens.

        The first token of the prompt has none.
        """
        from vllm import SamplingParams

        asked = SamplingParams(
            max_tokens=NEW, temperature=0, logprobs=0, prompt_logprobs=0, ignore_eos=True, detokenize=False
        )
        said = self._llm.generate([{"prompt_token_ids": PROMPT}], asked, use_tqdm=False)[0]
        tokens = list(said.outputs[0].token_ids)
        each = [
            *zip(PROMPT[1:], said.prompt_logprobs[1:], strict=True),
            *zip(tokens, said.outputs[0].logprobs, strict=True),
        ]
        return tokens, [found[token].logprob for token, found in each]


def kinds(names: list[str]) -> list[str]:
    """Return one parameter of each kind, by its name without the layer's number."""
    return list({re.sub(r"\d+", "N", name): name for name in reversed(names)}.values())


def logprobs(model: Any, tokens: list[int]) -> list[float]:
    """Return the log-probability of each token but the first, by a Hugging Face model."""
    whole = torch.tensor([tokens])
    with torch.no_grad():
        logits = model(whole).logits[0, :-1].float().log_softmax(-1)
    found: list[float] = logits.gather(-1, whole[0, 1:, None])[:, 0].tolist()
    return found


def look(engine: Engine, directory: Path, served_dir: Path) -> dict[str, Any]:
    """Return what a trainer reads, and the effects of its edits."""
    from safetensors.torch import load_file

    from agents.model.describe import language_model_tensors
    from agents.model.vllm.served_directory import ServedDirectory
    from agents.model.weights import views
    from agents.model.weights.shared import SharedWeights

    shared = SharedWeights.attach(ServedDirectory(served_dir).weights_file)
    on_disk = language_model_tensors(load_file(directory / "model.safetensors"))
    model = views.build(shared, directory)
    tokens, served = engine.answer()
    edits = {}
    for name in kinds(list(on_disk)):
        view = dict(model.named_parameters())[name]
        kept = view.detach().clone()
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            view.add_(
                torch.randn(kept.shape, generator=generator).to(kept.dtype)
                * kept.float().std().clamp(min=0.1)
            )
            edited = engine.answer()
            view.copy_(kept)
        edits[name] = [edited[1] != served, engine.answer() == (tokens, served)]
    kept_whole = restored(shared, directory)
    return {
        "restored": kept_whole and engine.answer() == (tokens, served),
        "differing": [
            name
            for name, tensor in on_disk.items()
            if not torch.equal(tensor.float(), shared.tensors[name].float())
        ],
        "dtypes": sorted({f"{entry.name.split('.')[-1]} {entry.dtype}" for entry in shared.entries}),
        "named": sorted(shared.tensors) == sorted(dict(model.named_parameters(remove_duplicate=False))),
        "served": served,
        "trainer": logprobs(model, PROMPT + tokens),
        "exact": logprobs(deepcopy(model).float(), PROMPT + tokens),
        "edits": edits,
    }


def restored(shared: Any, directory: Path) -> bool:
    """Return whether a checkpoint of the directory's files undoes a change of the shared weights."""
    from agents.model.describe import language_model_tensors
    from agents.model.weights.snapshot import restore
    from store.checkpoints.store import CheckpointStore
    from store.tensors.raw import parse

    store = CheckpointStore(directory.parent / f"{directory.name}.checkpoints")
    base = store.write(language_model_tensors(parse(directory / "model.safetensors")[1]), None, {})
    before = {name: tensor.clone() for name, tensor in shared.tensors.items()}
    for tensor in shared.tensors.values():
        tensor.zero_()
    restore(shared, store, base.id, clean=True)
    return all(torch.equal(tensor, before[name]) for name, tensor in shared.tensors.items())


def narrowed(place: Any, directory: Path) -> dict[str, Any]:
    """Return the error of a restore of values that the served type cannot hold, and whether it wrote any."""
    from agents.model.weights.shared import SharedWeights
    from corpus.errors import IntegrityFault

    shared = SharedWeights.attach(place.weights_file)
    try:
        restored(shared, directory)
    except IntegrityFault as fault:
        return {"said": str(fault), "dirty": shared.dirty}
    return {}


def run(name: str, folder: Path) -> dict[str, Any]:
    """Serve one model and return the results."""
    from agents.model.vllm.served_directory import ServedDirectory
    from store.home import Home

    case, home = CASES[name], Home(Path(os.environ["NIGHTSCHOOL_HOME"]))
    home.path.mkdir()
    home.config_file.write_text('[model]\nurl = "http://127.0.0.1:1"\n')
    directory = tiny_models.make(case.model, folder / f"{name}.model")
    if draft := case.options.get("speculative_config"):
        draft["model"] = str(tiny_models.make(draft["model"], folder / f"{name}.draft"))
    engine = Engine(case, directory)
    if case.looks:
        return look(engine, directory, home.served_dir)
    place = ServedDirectory(home.served_dir)
    if name == "narrowed":
        return narrowed(place, directory)
    return {"tokens": engine.answer()[0], "refused": place.refused, "shared": place.weights_file.exists()}


def main(folder: Path, names: list[str]) -> None:
    import vllm  # noqa: F401  (once for all)

    for name in names:
        before = set(MEMORY.glob(PIECES))
        child = os.fork()
        if child == 0:
            os.environ["NIGHTSCHOOL_HOME"] = str(folder / f"{name}.home")
            log = os.open(folder / f"{name}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = 1
            try:
                (folder / f"{name}.json").write_text(json.dumps(run(name, folder)))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                import atexit

                atexit._run_exitfuncs()  # the child ends here, without what its parent had to do at its end
                os._exit(status)
        os.waitpid(child, 0)
        for left in set(MEMORY.glob(PIECES)) - before:
            left.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
