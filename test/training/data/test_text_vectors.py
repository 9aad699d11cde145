"""Text vectors are made once for the same texts and the same encoder, and again when either changes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from synctva_ros.training.data import text_vectors
from synctva_ros.training.data.dialogues import Corpus
from synctva_ros.training.data.text_vectors import cached_vectors, encode_texts
from synctva_ros.training.recipe import Recipe
from synctva_ros.vision.detector_file import cache_folder

TEXTS = ["good day", "bad day", "", "good day", "what"]


def vectors_of(encoder: Any, texts: list[str], cache: Path) -> tuple[np.ndarray, list[str]]:
    """The vectors, and which of the texts were encoded for them."""
    encoder.seen.clear()
    vectors = cached_vectors(encoder, texts, cache, progress=False)
    return vectors, [text for text in encoder.seen if text in texts]


def test_the_second_time_nothing_is_encoded(words: Any, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "deeper"
    vectors, encoded = vectors_of(words, TEXTS, cache)
    assert sorted(encoded) == sorted(set(TEXTS))  # each text once
    np.testing.assert_array_equal(vectors, words.encode(TEXTS))
    again, encoded = vectors_of(words, TEXTS, cache)
    assert encoded == []
    np.testing.assert_array_equal(again, vectors)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    "changed", [[*TEXTS[:-1], "what!"], TEXTS[::-1], TEXTS[:-1], [*TEXTS[:-2], "good daywhat", ""], [*TEXTS, ""]]
)
def test_changed_texts_are_encoded(words: Any, tmp_path: Path, changed: list[str]) -> None:
    vectors_of(words, TEXTS, tmp_path)
    vectors, encoded = vectors_of(words, changed, tmp_path)
    assert encoded
    np.testing.assert_array_equal(vectors, words.encode(changed))


def test_a_changed_encoder_does_not_find_the_old_vectors(words: Any, tmp_path: Path) -> None:
    vectors_of(words, TEXTS, tmp_path)
    for change in ({"name": "words-2"}, {"seed": 7}):  # the same weights by another name, and others by the same one
        for attribute, value in change.items():
            setattr(words, attribute, value)
        vectors, encoded = vectors_of(words, TEXTS, tmp_path)
        assert encoded
        np.testing.assert_array_equal(vectors, words.encode(TEXTS))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"half", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_made_again(words: Any, tmp_path: Path, damage: bytes) -> None:
    vectors, _ = vectors_of(words, TEXTS, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    again, encoded = vectors_of(words, TEXTS, tmp_path)
    assert encoded
    np.testing.assert_array_equal(again, vectors)


def test_an_interruption_leaves_nothing_that_counts(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, vectors: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vectors_of(words, TEXTS, tmp_path)
    vectors, encoded = vectors_of(words, TEXTS, tmp_path)
    assert encoded
    np.testing.assert_array_equal(vectors, words.encode(TEXTS))


def test_many_texts_come_back_in_their_order(words: Any, tmp_path: Path) -> None:
    texts = [f"{i} " * (i % 7) for i in range(600)]
    vectors, _ = vectors_of(words, texts, tmp_path)
    np.testing.assert_array_equal(vectors, words.encode(texts))


def test_each_core_has_a_batch_of_its_own(words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    texts = [f"{i} words" for i in range(4 * text_vectors._CHUNK)]
    both = threading.Barrier(2, timeout=60)  # broken unless two are at work at once
    threads: list[int] = []
    encode = words.encode

    def together(chunk: list[str]) -> np.ndarray:
        if len(chunk) > 1:
            threads.append(torch.get_num_threads())
            both.wait()
        return encode(chunk)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(words, "encode", together)
            vectors, _ = vectors_of(words, texts, tmp_path)
        assert torch.get_num_threads() == 3, "of this thread"
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * 4, "a second one would wait for the first at each matrix"
    np.testing.assert_array_equal(vectors, words.encode(texts))


def test_what_waits_is_not_encoded_after_an_interruption(
    words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    begun: list[int] = []

    def interrupted(chunk: list[str]) -> np.ndarray:
        begun.append(len(chunk))
        if len(begun) == 2:  # the first is what the key is made of
            raise KeyboardInterrupt
        time.sleep(0.1)
        return np.zeros((len(chunk), words.width), np.float32)

    monkeypatch.setattr(words, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vectors_of(words, [f"{i} words" for i in range(50 * text_vectors._CHUNK)], tmp_path)
    assert len(begun) < 40
    assert list(tmp_path.iterdir()) == []


def test_the_batches_are_part_of_the_key(words: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors_of(words, TEXTS, tmp_path)
    monkeypatch.setattr(text_vectors, "_BATCHING", "otherwise")
    assert vectors_of(words, TEXTS, tmp_path)[1]


def test_layers_or_the_sentence_alone(write_split: Callable[..., Corpus], tmp_path: Path, words: Any) -> None:
    splits = [write_split(tmp_path, "train", [3, 2]), write_split(tmp_path, "valid", [4])]
    layers, name, width = encode_texts(splits, Recipe(), tmp_path, progress=False)
    assert (name, width, [rows.shape for rows in layers]) == ("words-1", 12, [(5, 12), (4, 12)])
    texts = [text for dialogue in splits[0].dialogues for text in dialogue.texts]
    np.testing.assert_array_equal(layers[0], words.encode(texts))
    sentence, name, width = encode_texts(splits, Recipe(text_vector="sentence"), tmp_path, progress=False)
    assert (name, width) == ("words-1/sentence", 4)
    for whole, last in zip(layers, sentence, strict=True):
        np.testing.assert_array_equal(whole[:, 8:], last)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: Any, write_split: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "synctva_ros"
    encode_texts([write_split(tmp_path, "train", [2])], Recipe(), None, progress=False)
    assert len(list(cache_folder().iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "synctva_ros"


def test_a_recipe_names_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters: list[str] = []
    monkeypatch.setattr(text_vectors, "TextEncoder", lambda weights, threads: adapters.append(weights))
    text_vectors.text_encoder(Recipe())
    text_vectors.text_encoder(Recipe(text_adapter="mine"))
    assert adapters == ["", "mine"]
