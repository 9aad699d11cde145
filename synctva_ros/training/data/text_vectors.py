"""Text vectors of a corpus, kept on disk by the content that they were made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import FloatArray
from synctva_ros.training.data.cache import cached
from synctva_ros.training.data.dialogues import Corpus
from synctva_ros.training.recipe import Recipe

_CHUNK = 256
_PROBE = "What an encoder makes of this is part of the key: a changed encoder must not find its old vectors."


def text_encoder(recipe: Recipe) -> TextEncoder:
    """The text encoder that a recipe asks for, on all cores: nothing else runs while texts are encoded."""
    return TextEncoder(recipe.text_adapter, threads=os.cpu_count() or 1)


def cached_vectors(
    encoder: TextEncoder, texts: Sequence[str], cache: Path | None, *, progress: bool = True, title: str = "text"
) -> FloatArray:
    """Vectors ``[n, width]`` of the texts; encoded once for the same encoder and the same texts in the same order."""
    from tqdm import tqdm

    def encode() -> FloatArray:
        # The longest first: the bar then errs on the safe side.
        unique = sorted(set(texts), key=len, reverse=True)
        batches = range(0, len(unique), _CHUNK)
        bar = tqdm(batches, desc=f"encoding {title}", unit="batch", disable=not progress)
        vectors = np.concatenate([encoder.encode(unique[first : first + _CHUNK]) for first in bar])
        row = {text: number for number, text in enumerate(unique)}
        return np.asarray(vectors[[row[text] for text in texts]])

    return cached(cache, [encoder.name, encoder.encode([_PROBE]).round(4).tobytes(), *texts], encode)


def encode_texts(
    splits: Sequence[Corpus], recipe: Recipe, cache: Path | None, progress: bool
) -> tuple[list[FloatArray], str, int]:
    """Text vectors ``[n, width]`` of each split, the name of what made them, and their width."""
    encoder = text_encoder(recipe)
    vectors = [
        cached_vectors(
            encoder,
            [text for dialogue in split.dialogues for text in dialogue.texts],
            cache,
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
