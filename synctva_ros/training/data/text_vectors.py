"""Text vectors of a corpus, kept on disk by the content that they were made from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import FloatArray
from synctva_ros.training.data.cache import cached
from synctva_ros.training.data.dialogues import Corpus
from synctva_ros.training.recipe import Recipe

_CHUNK = 128
#: Part of the key: batches put together otherwise give vectors that differ in the last bits.
_BATCHING = "by tokens, 128"
_PROBE = "What an encoder makes of this is part of the key: a changed encoder must not find its old vectors."


def text_encoder(recipe: Recipe) -> TextEncoder:
    """The text encoder that a recipe asks for, with one thread a batch; :func:`cached_vectors` does several at once.

    Two threads on one batch wait for each other at each of its small matrices: beside another program that took four
    times as long as two batches side by side. The network's matrices that follow are small as well.
    """
    return TextEncoder(recipe.text_adapter, threads=1)


def cached_vectors(
    encoder: TextEncoder, texts: Sequence[str], cache: Path | None, *, progress: bool = True, title: str = "text"
) -> FloatArray:
    """Vectors ``[n, width]`` of the texts; encoded once for the same encoder and the same texts in the same order."""

    def encode() -> FloatArray:
        # The longest first: the bar then errs on the safe side, and no core is left with a long one at the end.
        unique = sorted(set(texts), key=lambda text: (-len(text), text))
        chunks = [unique[first : first + _CHUNK] for first in range(0, len(unique), _CHUNK)]
        bar = Progress(console=Console(stderr=True), transient=True, disable=not progress)
        with bar, ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            made = pool.map(encoder.encode, chunks)  # what waits is cancelled when this is interrupted
            vectors = np.concatenate(list(bar.track(made, len(chunks), description=f"encoding {title}")))
        row = {text: number for number, text in enumerate(unique)}
        return np.asarray(vectors[[row[text] for text in texts]])

    return cached(cache, [_BATCHING, encoder.name, encoder.encode([_PROBE]).round(4).tobytes(), *texts], encode)


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
    if recipe.text_vector == "layers":
        return vectors, encoder.name, encoder.width
    width = encoder.width // len(encoder.layers)
    return [rows[:, -width:] for rows in vectors], f"{encoder.name}/sentence", width
