"""Text vectors of a corpus, kept on disk by the content that they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import FloatArray
from synctva_ros.training.corpora import Corpus
from synctva_ros.training.recipe import Recipe
from synctva_ros.vision.detector_file import cache_folder

_CHUNK = 256
_PROBE = "What an encoder makes of this is part of the key: a changed encoder must not find its old vectors."


def text_encoder(recipe: Recipe) -> TextEncoder:
    """The text encoder that a recipe asks for, on all cores: nothing else runs while texts are encoded."""
    return TextEncoder(threads=os.cpu_count() or 1, adapter=recipe.text_adapter)


def cached_vectors(
    encoder: TextEncoder, texts: Sequence[str], cache: Path, *, progress: bool = True, title: str = "text"
) -> FloatArray:
    """Vectors ``[n, width]`` of the texts; encoded once for the same encoder and the same texts in the same order."""
    from tqdm import tqdm

    digest = hashlib.sha256(encoder.name.encode() + encoder.encode([_PROBE]).round(4).tobytes())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    path = cache / f"{digest.hexdigest()[:32]}.npy"
    if path.is_file():
        # A file that a full disk or a lost power cut short is made again.
        with contextlib.suppress(OSError, ValueError, EOFError):
            kept: FloatArray = np.load(path, allow_pickle=False)
            return kept
    # The longest first: the bar then errs on the safe side.
    unique = sorted(set(texts), key=len, reverse=True)
    parts = [
        encoder.encode(unique[first : first + _CHUNK])
        for first in _bar(tqdm, range(0, len(unique), _CHUNK), progress, f"encoding {title}")
    ]
    row = {text: number for number, text in enumerate(unique)}
    vectors: FloatArray = np.concatenate(parts)[[row[text] for text in texts]]
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part.npy")
    np.save(unfinished, vectors)
    unfinished.replace(path)
    return vectors


def encode_texts(
    splits: Sequence[Corpus], recipe: Recipe, cache: Path | None, progress: bool
) -> tuple[list[FloatArray], str, int]:
    """Text vectors ``[n, width]`` of each split, the name of what made them, and their width."""
    encoder = text_encoder(recipe)
    vectors = [
        cached_vectors(
            encoder,
            [text for dialogue in split.dialogues for text in dialogue.texts],
            cache or cache_folder(),
            progress=progress,
            title=f"{split.name} {split.split}",
        )
        for split in splits
    ]
    torch.set_num_threads(1)  # the network's matrices are small: a second thread costs more than it gains
    if recipe.text_vector == "layers":
        return vectors, encoder.name, encoder.width
    width = encoder.width // len(encoder.layers)
    return [rows[:, -width:] for rows in vectors], f"{encoder.name}/sentence", width


def _bar(tqdm: type, items: range, progress: bool, title: str) -> Iterable[int]:
    bar: Iterable[int] = tqdm(items, desc=title, unit="batch", disable=not progress)
    return bar
