"""The vectors of one face during an utterance → one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_faces import SECOND

from synctva_ros.vision.pooling import PARTS, best_of_each_part, pool

A, B = np.random.default_rng(2).normal(size=(2, 7)).astype(np.float32)


def test_mean_follows_quality() -> None:
    mean = pool([0, SECOND // 10], [0.9, 0.1], [A, B])
    assert mean.shape == (7,)
    assert mean.dtype == np.float32
    assert np.abs(mean - A).mean() < np.abs(mean - B).mean()
    np.testing.assert_allclose(pool([0, SECOND // 10], [0.0, 0.0], [A, B]), (A + B) / 2, atol=1e-4)


def test_one_image_is_its_vector() -> None:
    np.testing.assert_allclose(pool([5], [0.0], [A]), A, rtol=1e-6)


def test_mean_follows_time_not_the_number_of_images() -> None:
    """A burst of images of the one face weighs no more than the time that it took."""
    steady = [(i * SECOND // 10, A if i < 5 else B) for i in range(10)]
    burst = steady[:5] + [(SECOND // 2 + i * SECOND // 100, B) for i in range(7)] + steady[7:]
    for frames, tolerance in ((steady, 1e-4), (burst, 0.1 * np.abs(A - B).max())):
        stamps, vectors = zip(*frames, strict=True)
        np.testing.assert_allclose(pool(stamps, [0.5] * len(stamps), vectors), (A + B) / 2, atol=tolerance)
    # A face that was hidden for a minute says nothing about that minute.
    stamps = [0, *(60 * SECOND + i * SECOND // 2 for i in range(3))]
    np.testing.assert_allclose(pool(stamps, [0.5] * 4, [A, B, B, B]), (A + 3 * B) / 4, atol=1e-4)


def test_of_long_utterances_the_best_images_count() -> None:
    """From all over the utterance."""
    sharp = [i % 50 == 7 for i in range(1800)]
    stamps = [i * SECOND // 30 for i in range(1800)]
    qualities = [0.8 if good else 0.3 for good in sharp]
    chosen = best_of_each_part(stamps, qualities)
    assert len(chosen) == PARTS == 16
    assert all(sharp[place] for place in chosen)
    np.testing.assert_allclose(pool(stamps, qualities, [A if good else B for good in sharp]), A, atol=1e-4)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="leave the vision modality out"):
        pool([], [], [])
    with pytest.raises(ValueError, match="2 stamps, 1 qualities and 2 vectors"):
        pool([0, 1], [0.5], [A, B])


@given(st.lists(st.tuples(st.integers(0, 10**11), st.floats(0, 1)), min_size=1, max_size=60, unique_by=lambda t: t[0]))
def test_the_mean_is_among_the_vectors(frames: list[tuple[int, float]]) -> None:
    stamps, qualities = zip(*sorted(frames), strict=True)
    vectors = np.random.default_rng(len(frames)).normal(size=(len(frames), 3)).astype(np.float32)
    chosen = best_of_each_part(stamps, qualities)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= PARTS
    assert max(qualities) == max(qualities[place] for place in chosen)
    mean = pool(stamps, qualities, list(vectors))
    assert (mean >= vectors[chosen].min(0) - 1e-5).all()
    assert (mean <= vectors[chosen].max(0) + 1e-5).all()
