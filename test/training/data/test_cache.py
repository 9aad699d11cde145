"""Arrays are made once for the same parts, and again when one of them changes or the file was cut short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synctva_ros.events import FloatArray
from synctva_ros.training.data.cache import cached

PARTS: list[str | bytes] = ["encoder", b"ab"]


def making(value: float) -> Callable[[], FloatArray]:
    return lambda: np.full((2, 3), value, np.float32)


def fail() -> FloatArray:
    raise AssertionError("made twice")


def test_made_once(tmp_path: Path) -> None:
    made = cached(tmp_path / "new" / "deeper", PARTS, making(1.0))
    assert np.array_equal(cached(tmp_path / "new" / "deeper", PARTS, fail), made)
    assert len(list((tmp_path / "new" / "deeper").iterdir())) == 1


@pytest.mark.parametrize("other", [["encodera", b"b"], ["encoder", b"a", b"b"], [b"ab", "encoder"], ["encoder"], []])
def test_keyed_by_content(tmp_path: Path, other: list[str | bytes]) -> None:
    cached(tmp_path, PARTS, making(1.0))
    assert (cached(tmp_path, other, making(2.0)) == 2.0).all()
    assert (cached(tmp_path, PARTS, fail) == 1.0).all()


@pytest.mark.parametrize("damage", [b"", b"half", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: bytes) -> None:
    cached(tmp_path, PARTS, making(1.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert (cached(tmp_path, PARTS, making(1.0)) == 1.0).all()
    assert (cached(tmp_path, PARTS, fail) == 1.0).all()


def test_what_raises_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="made twice"):
        cached(tmp_path, PARTS, fail)
    assert not list(tmp_path.iterdir())


def test_without_a_folder_it_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached(None, PARTS, making(1.0))
    assert [path.suffix for path in (tmp_path / "synctva_ros").iterdir()] == [".npy"]
