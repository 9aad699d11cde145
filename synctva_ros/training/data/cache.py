"""Arrays on disk, found by the content that they were made from."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from synctva_ros.events import FloatArray
from synctva_ros.vision.detector_file import cache_folder


def cached(folder: Path | None, parts: Iterable[str | bytes], make: Callable[[], FloatArray]) -> FloatArray:
    """What ``make`` returns, or what it returned when it was last called for the same parts.

    Args:
        folder: where arrays are kept; None for the user's cache folder.
        parts: all that the array depends on, in order.
        make: makes the array.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    path = (folder or cache_folder()) / f"{digest.hexdigest()[:32]}.npy"
    # A file that a full disk or a lost power cut short is made again.
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept: FloatArray = np.load(path, allow_pickle=False)
        return kept
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part.npy")
    np.save(unfinished, made)
    unfinished.replace(path)
    return made
