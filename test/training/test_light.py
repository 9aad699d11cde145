from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from synctva_ros.training.light import (
    Pool,
    Talk,
    cached,
    class_index,
    joined,
    single_batch,
    talk_batch,
)
from synctva_ros.types import EMOTIONS

TEXT = np.arange(40, dtype=np.float32).reshape(20, 2)
VOICES = Pool(np.repeat(np.arange(7, dtype=np.float32), 3)[:, None], np.repeat(np.arange(7), 3))
FACES = Pool(-VOICES.vectors, VOICES.labels)


def make_talk(n: int) -> Talk:
    return Talk(np.arange(n), np.arange(n) + 10, np.full(n, 3), np.arange(n) % 2, np.arange(n) % 7)


def test_every_class_name_is_known() -> None:
    ravdess = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    fer = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
    assert {EMOTIONS[class_index(name)] for name in ravdess} == set(EMOTIONS)
    assert {EMOTIONS[class_index(name)] for name in fer} == set(EMOTIONS)
    with pytest.raises(ValueError, match="bored"):
        class_index("bored")


def test_the_cache_is_keyed_by_content(tmp_path: Path) -> None:
    def fail() -> np.ndarray:
        raise AssertionError("made twice")

    made = cached(tmp_path, ["encoder", b"ab"], lambda: np.ones(2, np.float32))
    assert np.array_equal(cached(tmp_path, ["encoder", b"ab"], fail), made)
    with pytest.raises(AssertionError):
        cached(tmp_path, ["encodera", b"b"], fail)


def test_composed_utterances_have_one_label() -> None:
    batch, labels = talk_batch([make_talk(9), make_talk(4)], TEXT, VOICES, FACES, np.random.default_rng(0), "TAV")
    assert batch.mask.all()
    assert torch.equal(batch.audio[:, 0], labels.float())
    assert torch.equal(batch.vision[:, 0], -labels.float())
    assert batch.dialogue.tolist() == [0] * 9 + [1] * 4
    assert (batch.end > batch.start).all()
    assert (batch.start[1:9] > batch.end[:8]).all()


def test_training_leaves_things_out_at_random() -> None:
    rng = np.random.default_rng(0)
    batches = [talk_batch([make_talk(9)] * 4, TEXT, VOICES, FACES, rng)[0] for _ in range(20)]
    masks = torch.cat([batch.mask for batch in batches])
    assert masks.any(dim=1).all()
    assert len(set(map(tuple, masks.tolist()))) == 7
    assert any((batch.speaker < 0).any() for batch in batches)
    assert {int(batch.dialogue[-1]) + 1 > 4 for batch in batches} >= {True}
    assert any((batch.text[:, 0] >= 20).any() for batch in batches)


def test_joining_keeps_dialogues_apart() -> None:
    rng = np.random.default_rng(0)
    batch, labels = joined(
        [talk_batch([make_talk(3)], TEXT, VOICES, FACES, rng, "T"), single_batch(VOICES.balanced(2, rng), 1, (2, 1, 1))]
    )
    assert batch.dialogue.tolist() == [0, 0, 0, 1, 2]
    assert batch.mask.tolist() == [[True, False, False]] * 3 + [[False, True, False]] * 2
    assert torch.equal(batch.audio[3:, 0], labels[3:].float())
