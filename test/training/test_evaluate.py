"""Scores of a run folder: what they are made of, where they are written, and what does not fit together."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from synctva_ros.evaluation.metrics import CHOSEN_HERE, MEASURES, score
from synctva_ros.events import EMOTIONS
from synctva_ros.training import evaluate as module
from synctva_ros.training.data.dialogues import CORPORA, Corpus, read_corpus
from synctva_ros.training.data.protocol import CorpusError
from synctva_ros.training.evaluate import Evaluation, evaluate, print_scores, write_page
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks.dialogue import Run, RunError, train
from synctva_ros.weights.files import WeightsError

TINY = Recipe(hidden=8, heads=2, window=2, epochs=2, batch=2, averaging=0.5, learning_rate=0.01)
LENGTHS = [4, 3, 5, 1]


@pytest.fixture
def folder(write_split: Callable[..., Corpus], words: Any, tmp_path: Path) -> Path:
    """A run of two seeds on words, voices and faces."""
    for split in ("train", "valid"):
        write_split(
            tmp_path, split, LENGTHS, widths={"audio": 7, "vision": 5}, missing={"audio": [3], "vision": [3, 4]}
        )
    train(tmp_path, "meld", tmp_path / "run", TINY, seeds=(1, 2), cache=tmp_path, device="cpu", progress=False)
    return tmp_path / "run"


def scored(folder: Path, corpus: str = "meld", split: str = "valid", **options: Any) -> Evaluation:
    options = {"data": folder.parent, "cache": folder.parent, "device": "cpu", "progress": False} | options
    return evaluate(folder, corpus=corpus, split=split, **options)


def test_the_figures(folder: Path) -> None:
    found = scored(folder)
    summary = json.loads(json.dumps(found.summary))
    assert list(summary) == [*MEASURES, "per_class", "confusion", "n", "groups", "chosen_on_this_split"]
    for name in MEASURES:
        assert list(summary[name]) == ["mean", "std", "interval", "seeds"]
        assert list(summary[name]["seeds"]) == ["1", "2"]
    assert summary["groups"] == {"unit": "dialogue", "n": len(LENGTHS)}
    assert list(summary["per_class"]) == list(EMOTIONS) == summary["confusion"]["labels"]
    assert np.sum(summary["confusion"]["sum"]) == 2 * sum(LENGTHS)
    assert summary["n"] == sum(LENGTHS)
    labels = np.concatenate([dialogue.labels for dialogue in read_corpus(folder.parent, "meld", "valid").dialogues])
    said = found.predictions
    assert said.labels.tolist() == labels.tolist()
    assert said.groups[:5] == ("d0", "d0", "d0", "d0", "d1")
    assert said.items[3:5] == ("d0/4", "d1/1")
    assert found.run == Run.read(folder)
    for seed, probabilities in said.probabilities.items():
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        assert summary["accuracy"]["seeds"][str(seed)] == score(probabilities, labels, EMOTIONS).accuracy
        # On the validation split they are what the training wrote down.
        written = json.loads((folder / f"seed-{seed}" / "metrics.json").read_text())
        for name in ("accuracy", "weighted_f1", "macro_f1", "ece"):
            assert summary[name]["seeds"][str(seed)] == pytest.approx(written[name], abs=1e-6)


def test_the_batch_size_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scored(folder).predictions
    monkeypatch.setattr(module, "_DIALOGUES", 1)
    for seed, probabilities in scored(folder).predictions.probabilities.items():
        np.testing.assert_allclose(probabilities, whole.probabilities[seed], atol=1e-5)


def test_what_was_chosen_on_the_split_is_marked(
    folder: Path, write_split: Callable[..., Corpus], capsys: pytest.CaptureFixture[str]
) -> None:
    """The validation split of the run's own corpus, whoever holds the weights; no other."""
    widths = {"audio": 7, "vision": 5}
    write_split(folder.parent, "valid", [3], name="dailydialog", widths=widths)
    for where in (folder, folder / "seed-1"):
        for corpus, split, chosen in (
            ("meld", "valid", True),
            ("meld", "train", False),
            ("dailydialog", "valid", False),
        ):
            found = scored(where, corpus, split, data=folder.parent)
            assert found.summary["chosen_on_this_split"] is chosen, (where, corpus, split)
            print_scores(found)
            assert ("chosen by these very utterances" in capsys.readouterr().out) is chosen
    path = folder / "seed-1" / "model.json"
    described = json.loads(path.read_text())
    described["training"]["chosen_on"] = ["dailydialog valid"]
    path.write_text(json.dumps(described))
    assert scored(folder / "seed-1", "dailydialog", data=folder.parent).summary["chosen_on_this_split"]
    assert not scored(folder / "seed-1", data=folder.parent).summary["chosen_on_this_split"]


def test_corpora_may_lie_beside_voices_and_faces(folder: Path) -> None:
    (folder.parent / "erc").mkdir()
    for path in folder.parent.glob("meld_valid*"):
        path.rename(path.parent / "erc" / path.name)
    assert scored(folder).summary["n"] == sum(LENGTHS)


def test_only_the_page_needs_matplotlib(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.style", "tensorboard", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "synctva_ros.evaluation.report", raising=False)
    (folder.parent / "new").mkdir()
    found = scored(folder, cache=folder.parent / "new", progress=True)
    print_scores(found)
    with pytest.raises(ImportError, match="matplotlib"):
        write_page(found, folder, "meld", "valid", tmp_path / "page.html")


@pytest.mark.parametrize("model", ["gru", "mlp"])
def test_references_are_scored_by_the_same_function(folder: Path, tmp_path: Path, model: Any) -> None:
    recipe = Recipe(model=model, hidden=8, epochs=1)
    train(tmp_path, "meld", tmp_path / model, recipe, cache=tmp_path, device="cpu", progress=False)
    found = scored(tmp_path / model)
    assert found.run.recipe.model == model
    assert found.summary["n"] == sum(LENGTHS)


def test_fewer_modalities(folder: Path) -> None:
    found = {
        letters: scored(folder, modalities=letters).predictions.probabilities[1] for letters in ("tav", "t", "ta", "at")
    }
    np.testing.assert_array_equal(found["tav"], scored(folder).predictions.probabilities[1])
    np.testing.assert_array_equal(found["ta"], found["at"])
    assert not np.allclose(found["t"], found["ta"])
    # Where an utterance has words alone, the voices of others still matter to it.
    assert np.isfinite(found["t"]).all()


def test_speakers_that_are_mistaken_or_unknown_make_a_difference(folder: Path) -> None:
    found = {share: scored(folder, speakers=share).predictions.probabilities[1] for share in (1.0, 0.5, None)}
    np.testing.assert_array_equal(found[1.0], scored(folder).predictions.probabilities[1])
    np.testing.assert_array_equal(found[0.5], scored(folder, speakers=0.5).predictions.probabilities[1])
    for one, other in itertools.combinations(found.values(), 2):
        assert not np.allclose(one, other)


def test_without_words_nothing_is_encoded(folder: Path, write_split: Callable[..., Corpus], words: Any) -> None:
    write_split(folder.parent, "other", [3, 2], widths={"audio": 7, "vision": 5})
    words.seen.clear()
    assert scored(folder, split="other", modalities="v").summary["n"] == 5
    assert words.seen == []


def test_a_corpus_without_a_modality_is_scored_when_it_is_named(
    folder: Path, write_split: Callable[..., Corpus]
) -> None:
    write_split(folder.parent, "words", [3, 2])
    sentence = (
        "run was trained with audio vectors of width 7, but meld words has none: extract them with the encoder 'e-1'"
    )
    with pytest.raises(RunError, match=f"{sentence}, or leave the modality out with --modalities"):
        scored(folder, split="words")
    assert scored(folder, split="words", modalities="t").summary["n"] == 5


def test_an_utterance_with_nothing_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="meld valid: utterance 4 of dialogue 'd0' has none of the modalities 'a'"):
        scored(folder, modalities="a")


@pytest.mark.parametrize("wrong", ["", "x", "tx"])
def test_letters_that_are_none(folder: Path, wrong: str) -> None:
    with pytest.raises(RunError, match=f"was trained with the modalities 'tav', not '{wrong}': name some of those"):
        scored(folder, modalities=wrong)


def test_a_modality_that_was_not_trained_on(folder: Path, tmp_path: Path) -> None:
    train(tmp_path, "meld", tmp_path / "t", TINY, modalities="t", cache=tmp_path, device="cpu", progress=False)
    assert scored(tmp_path / "t").summary["n"] == sum(LENGTHS)
    with pytest.raises(RunError, match="was trained with the modalities 't', not 'ta'"):
        scored(tmp_path / "t", modalities="ta")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"widths": {"audio": 6, "vision": 5}}, "width 7, but meld other has width 6: extract them with"),
        (
            {"encoder": "e-2"},
            "audio vectors of 'e-1', but those of meld other are of 'e-2': extract them with the same",
        ),
        ({"encoder": ""}, "audio vectors of 'e-1', but those of meld other are of 'unnamed'"),
    ],
)
def test_other_vectors_are_refused(
    folder: Path, write_split: Callable[..., Corpus], change: dict[str, Any], sentence: str
) -> None:
    write_split(folder.parent, "other", [3], **({"widths": {"audio": 7, "vision": 5}} | change))
    with pytest.raises(RunError, match=sentence):
        scored(folder, split="other")


def test_another_text_encoder_is_refused(folder: Path, words: Any) -> None:
    words.name = "words-2"
    with pytest.raises(
        RunError, match="with the text encoder words-1, here it is words-2: install or configure the same"
    ):
        scored(folder)


def test_other_classes_are_refused(folder: Path, write_split: Callable[..., Corpus]) -> None:
    write_split(folder.parent, "valid", [3], name="iemocap")
    mine, theirs = ", ".join(EMOTIONS), ", ".join(CORPORA["iemocap"])
    with pytest.raises(RunError, match=f"for the classes {mine}, but iemocap has {theirs}: evaluate it on a corpus of"):
        scored(folder, "iemocap")
    write_split(folder.parent, "valid", [3], name="dailydialog", widths={"audio": 7, "vision": 5})
    assert scored(folder, "dailydialog").summary["n"] == 3


def test_files_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json is missing: give a folder that synctva train wrote"):
        scored(tmp_path / "nothing")
    with pytest.raises(CorpusError, match=r"meld_test\.jsonl: there is no such file"):
        scored(folder, split="test")
    for seed in (1, 2):
        (folder / f"seed-{seed}" / "model.safetensors").unlink()
    with pytest.raises(RunError, match="holds no finished seed"):
        scored(folder)


def test_damaged_weights_are_named(folder: Path) -> None:
    path = folder / "seed-2" / "model.safetensors"
    tensors = load_file(path)
    for change, sentence in (
        ({**tensors, "new": torch.zeros(1)}, "has the unknown tensor 'new'"),
        ({n: t for n, t in tensors.items() if n != "fusion.share.bias"}, r"lacks the tensor 'fusion\.share\.bias'"),
    ):
        save_file(change, path)
        with pytest.raises(WeightsError, match=rf"seed-2/model\.safetensors {sentence}"):
            scored(folder)
    (folder / "seed-2" / "model.json").unlink()
    with pytest.raises(WeightsError, match=r"seed-2/model\.json is missing"):
        scored(folder)


def test_the_page_and_the_table(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scored(folder)
    (folder / "seed-2" / "log.csv").unlink()
    write_page(found, folder, "meld", "valid", tmp_path / "pages" / "page.html")
    page = (tmp_path / "pages" / "page.html").read_text()
    for part in (
        "sync-tva on meld valid",
        "2 seeds, causal context, modalities text, audio, vision",
        "words-1",
        "the weights of the chosen epoch were kept",
        CHOSEN_HERE,
    ):
        assert part in page
    assert page.count("<picture>") == 4, "classes, confusion, reliability, curves"
    print_scores(found)
    table = capsys.readouterr().out
    assert f"{sum(LENGTHS)} utterances in 4 dialogues, 2 seeds" in table
    assert "± is the deviation over 2 seeds" in table
    assert re.search(r"Encoding the text took \d+\.\d s, the networks \d+\.\d s", table)
    low, high = (f"{100 * bound:.1f}" for bound in found.summary["weighted_f1"]["interval"])
    assert f"({low} to {high})" in table
    for part in (*(measure.title for measure in MEASURES.values()), *EMOTIONS):
        assert part in table


def test_of_one_seed_no_deviation_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(scored(folder / "seed-2", data=folder.parent))
    table = capsys.readouterr().out
    assert "in 4 dialogues, 1 seed\n" in table
    assert "±" not in table


def test_the_curves_are_those_of_the_log(folder: Path) -> None:
    curves = module._curves(folder / "seed-1")
    assert {"train_loss", "valid_loss", "valid_weighted_f1", "chosen_epoch"} <= set(curves)
    assert not {"epoch", "seconds"} & set(curves)
    assert len(curves["train_loss"]) == 2
    assert curves["chosen_epoch"] == [json.loads((folder / "seed-1" / "model.json").read_text())["training"]["epoch"]]
