"""The vectors of one face during an utterance → one vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import NANOSECONDS, FloatArray

#: An utterance has so many parts; of each the best image counts.
PARTS = 16
# One image stands for at most this time: what happened while the face was hidden is not known [s].
_MAX_STANDS_FOR = 0.5


def pool(stamps: Sequence[int], qualities: Sequence[float], vectors: Sequence[FloatArray]) -> FloatArray:
    """Mean vector ``[d]`` of one track over an utterance.

    At most 16 images count: of each sixteenth of the time from the first to the last the best. An image weighs its
    quality times the time that it stands for, half the distance to the images beside it, so that neither pauses nor
    bursts of an irregular camera distort the mean.

    Args:
        stamps: Times of the ``n`` images [ns], ascending.
        qualities: Of the face in them, in [0, 1].
        vectors: Of the face in them, ``[n, d]``.

    Raises:
        ValueError: No images, or not as many of the one as of the other; the modality is missing then.
    """
    if not len(stamps) == len(qualities) == len(vectors):
        raise ValueError(
            f"face pooling: {len(stamps)} stamps, {len(qualities)} qualities and {len(vectors)} vectors; give one of "
            "each an image"
        )
    if not len(stamps):
        raise ValueError("face pooling: no images of the face; leave the vision modality out of this utterance")
    chosen = best_of_each_part(stamps, qualities)
    # The offset keeps a run of poor images from dividing by zero.
    quality = np.array([qualities[place] for place in chosen]) + 1e-3
    weights = quality * _stands_for([stamps[place] for place in chosen])
    return np.asarray(weights @ np.stack([vectors[place] for place in chosen]) / weights.sum(), np.float32)


def best_of_each_part(stamps: Sequence[int], qualities: Sequence[float], parts: int = PARTS) -> list[int]:
    """Places of the best image of each of so many equally long parts of the time, ascending."""
    if len(stamps) <= parts:
        return list(range(len(stamps)))
    start = stamps[0]
    length = max(stamps[-1] - start, 1)
    best: dict[int, int] = {}
    for place, stamp in enumerate(stamps):
        part = min((stamp - start) * parts // length, parts - 1)
        if part not in best or qualities[place] > qualities[best[part]]:
            best[part] = place
    return list(best.values())


def _stands_for(stamps: Sequence[int]) -> NDArray[np.float64]:
    """Seconds ``[n]`` from halfway to the image before until halfway to the next one."""
    if len(stamps) < 2:
        return np.ones(len(stamps))
    gaps = np.clip(np.diff(stamps) / NANOSECONDS, 1e-6, _MAX_STANDS_FOR)
    gaps = np.pad(gaps, 1, mode="edge")
    return np.asarray((gaps[:-1] + gaps[1:]) / 2)
