"""A set's texts are read once on the same weights and cached, and never used for other weights or texts."""

from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
from read_here import Here, shipped, source

from agents.readout import collect
from agents.readout.collect import CARD, TENSORS, Collected
from agents.trainer.scoring import residual_stream
from corpus import concept_sets
from corpus.concept_sets import ConceptSet
from corpus.errors import GateRefused

WORLD = concept_sets.of_world()


def some(count: int = 20) -> ConceptSet:
    """Return part of the world's set, with one text that two concepts share."""
    texts = (*WORLD.texts[::12][:count], ("asking", WORLD.texts[0][1]))
    return replace(WORLD, texts=texts, sha256=f"{count}")


def read(
    place: Path, here: Here, texts: ConceptSet, layers: list[int], heads: list[int], **more: str
) -> Collected:
    return anyio.run(lambda: collect.collect(source(place, here, **more), texts, layers=layers, heads=heads))


def test_each_unique_text_is_run_once_and_used_for_all_its_places(tmp_path: Path) -> None:
    here, texts = Here(), some()
    collected = read(tmp_path, here, texts, [1, 3], [2])
    unique = {text for _, text in texts.texts}
    assert len(here.asked) == len(unique) == len(texts.texts) - 1 and len(set(here.asked)) == len(unique)
    assert collected.stream.shape == (21, 2, 128) and collected.heads[2].shape == (21, 4, 32)
    assert np.array_equal(collected.stream[0], collected.stream[-1]) and np.array_equal(
        collected.heads[2][0], collected.heads[2][-1]
    )
    model, tokenizer = shipped()
    for i, (_, text) in enumerate(texts.texts):
        alone = residual_stream.read(model, [tokenizer(text)["input_ids"]], [3, 1], [2])
        assert np.allclose(collected.of(3)[i], alone.stream[0, 0].numpy(), atol=1e-4)
        assert np.allclose(collected.of(1)[i], alone.stream[0, 1].numpy(), atol=1e-4)
        assert np.allclose(collected.heads[2][i], alone.heads[2][0].numpy(), atol=1e-4)


def test_texts_are_sent_by_length_in_pieces_and_progress_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "PIECE", 8)
    here, progress = Here(), list[tuple[int, int]]()

    async def report(done: int, total: int) -> None:
        progress.append((done, total))

    texts = [text for _, text in some().texts[:-1]]
    pieces = anyio.run(lambda: collect.read_texts(source(tmp_path, here), texts, layers=[2], report=report))
    assert progress == [(0, 20), (8, 20), (16, 20), (20, 20)]
    lengths = [len(tokens) for tokens in here.asked]
    assert lengths == sorted(lengths) != [len(shipped()[1](text)["input_ids"]) for text in texts]
    monkeypatch.setattr(collect, "PIECE", 64)
    whole = anyio.run(lambda: collect.read_texts(source(tmp_path, here), texts, layers=[2]))
    assert np.allclose(pieces.stream, whole.stream, atol=1e-4) and not (tmp_path / "readout").exists()


def test_cached_activations_are_used_only_for_the_same_weights_and_texts(tmp_path: Path) -> None:
    here, texts = Here(), some()
    first = read(tmp_path, here, texts, [1, 3], [2])
    runs = len(here.asked)
    again = read(tmp_path, here, texts, [3], [2])
    assert len(here.asked) == runs
    assert np.array_equal(again.stream[:, 0], first.stream[:, 1]) and np.array_equal(
        again.heads[2], first.heads[2]
    )
    for layers, heads, more in (
        ([0], [], {}),
        ([1], [1], {}),
        ([1], [], {"weights_version": "x"}),
        ([1], [], {"model_digest": "x"}),
    ):
        read(tmp_path, here, texts, [1, 3], [2])
        before = len(here.asked)
        read(tmp_path, here, texts, layers, heads, **more)
        assert len(here.asked) > before
    before = len(here.asked)
    read(tmp_path, here, some(5), [1], [])
    assert len(here.asked) == before + 5


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"layers": 1}'])
def test_a_damaged_cache_is_rebuilt(tmp_path: Path, damage: bytes) -> None:
    here, texts = Here(), some(3)
    first = read(tmp_path, here, texts, [1], [])
    for name in (CARD, TENSORS):
        (tmp_path / "readout" / name).write_bytes(damage)
        assert np.array_equal(read(tmp_path, here, texts, [1], []).stream, first.stream)
    assert len(here.asked) == 9


def test_weights_that_change_during_the_reading_are_refused_and_nothing_is_cached(tmp_path: Path) -> None:
    here = Here()
    here.changes = True
    with pytest.raises(GateRefused, match="the weights changed"):
        read(tmp_path, here, some(3), [1], [])
    assert not (tmp_path / "readout").exists()


def test_activations_over_the_size_limit_are_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, texts = Here(), some(3)
    read(tmp_path, here, texts, [1], [])
    monkeypatch.setattr(collect, "KEPT_BYTES", 10)
    read(tmp_path, here, texts, [2], [])
    assert list((tmp_path / "readout").iterdir()) == []
