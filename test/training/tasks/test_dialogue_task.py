"""Training: the same seed gives the same weights, also after interruptions; what it reads; what it refuses."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from synctva_ros.events import EMOTIONS
from synctva_ros.network.synctva import DialogueBatch, SyncTVAConfig
from synctva_ros.training import loop
from synctva_ros.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from synctva_ros.training.data.dialogues import Corpus, Dialogue, read_corpus
from synctva_ros.training.data.protocol import CorpusError
from synctva_ros.training.evaluate import evaluate
from synctva_ros.training.loop import TrainingError, read_log
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks import dialogue as trainer
from synctva_ros.training.tasks.dialogue import ARCHITECTURES, Loss, Run, RunError, collate, prepare, train, usable

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[4] / "shared/data")) / "erc"
MODELS = ("sync-tva", "gru", "mlp")
#: Everything that draws random numbers.
TINY = Recipe(
    hidden=8,
    heads=2,
    window=2,
    epochs=4,
    batch=2,
    averaging=0.5,
    learning_rate=0.01,
    modality_dropout=0.3,
    unknown_speakers=0.5,
)
TRAIN, VALID = [4, 3, 5, 2, 4], [4, 3]


@pytest.fixture
def data(write_split: Callable[..., Corpus], tmp_path: Path) -> Path:
    """MELD with voices, of which some are missing; there is no test split."""
    folder = tmp_path / "data"
    write_split(folder, "train", TRAIN, widths={"audio": 7}, missing={"audio": [1, 5]})
    write_split(folder, "valid", VALID, widths={"audio": 7}, missing={"audio": [6]})
    return folder


@pytest.fixture
def run(data: Path, words: Any, tmp_path: Path) -> Callable[..., list[str]]:
    """Trains into a folder of this name; returns what was reported."""

    def call(name: str, recipe: Recipe = TINY, **options: Any) -> list[str]:
        said: list[str] = []
        options = {"data": data, "corpus": "meld", "cache": tmp_path / "cache", "device": "cpu"} | options
        train(out=tmp_path / name, recipe=recipe, progress=False, report=said.append, **options)
        return said

    return call


def files(folder: Path) -> dict[str, bytes]:
    """All that is written but for TensorBoard's events; of the log not how long an epoch took."""
    found = {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard"}
    written = {str(path.relative_to(folder)): path.read_bytes() for path in found}
    for name, content in written.items():
        if name.endswith("log.csv"):
            rows = [line.split(b",") for line in content.splitlines()]
            assert rows[0][1] == b"seconds"
            written[name] = b"\n".join(b",".join([row[0], *row[2:]]) for row in rows)
    return written


SEED_FILES = {"model.safetensors", "model.json", "log.csv", "metrics.json"}


class Interruption(Exception):
    """Stands for Ctrl-C."""


@contextmanager
def interrupted(place: str, call: int, after: bool) -> Iterator[None]:
    """This call of a function of the trainer is interrupted, before or after it has done its work."""
    module: Any = loop if place == "save_checkpoint" else trainer
    works, calls = getattr(module, place), iter(range(1, 1000))

    def replacement(*arguments: Any) -> Any:
        reached = next(calls) == call
        if reached and not after:
            raise Interruption
        result = works(*arguments)
        if reached:
            raise Interruption
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, place, replacement)
        yield


class TestSeeds:
    """Same in, same out."""

    @pytest.mark.parametrize("model", MODELS)
    def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
        self, run: Callable[..., list[str]], tmp_path: Path, model: str
    ) -> None:
        recipe = replace(TINY, model=model, epochs=2, layers=2 if model == "gru" else 1)
        run("first", recipe, seeds=(1, 2))
        run("second", recipe, seeds=(1,))
        torch.rand(100)  # the state of the generators before does not matter
        run("third", recipe, seeds=(2, 1))
        first = files(tmp_path / "first")
        assert set(first) == {"run.json"} | {f"seed-{seed}/{name}" for seed in (1, 2) for name in SEED_FILES}
        assert files(tmp_path / "third") == first
        assert files(tmp_path / "second").items() <= first.items()
        one, two = (load_file(tmp_path / "first" / f"seed-{seed}" / "model.safetensors") for seed in (1, 2))
        assert one.keys() == two.keys()
        assert not all(torch.equal(one[name], two[name]) for name in one)

    @pytest.mark.parametrize(
        ("place", "call", "after"),
        [
            ("save_checkpoint", 1, False),  # before anything is kept
            ("save_checkpoint", 1, True),
            ("save_checkpoint", 3, True),
            ("predict_logits", 3, False),  # within an epoch
            ("save_checkpoint", 4, True),  # all epochs are done
            ("save", 1, False),  # all but the weights is written
            ("save", 1, True),
        ],
    )
    def test_a_resumed_training_ends_like_an_uninterrupted_one(
        self, run: Callable[..., list[str]], tmp_path: Path, place: str, call: int, after: bool
    ) -> None:
        run("whole")
        with interrupted(place, call, after), pytest.raises(Interruption):
            run("parts")
        with pytest.raises(RunError, match="parts holds no finished seed: let synctva train come to its end"):
            Run.read(tmp_path / "parts").seeds(tmp_path / "parts")
        run("parts")
        assert files(tmp_path / "parts") == files(tmp_path / "whole")

    def test_every_epoch_interrupted(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        recipe = replace(TINY, model="gru", layers=2)
        run("whole", recipe)
        for _ in range(recipe.epochs):
            with interrupted("save_checkpoint", 1, after=True), pytest.raises(Interruption):
                run("parts", recipe)
        run("parts", recipe)
        assert files(tmp_path / "parts") == files(tmp_path / "whole")

    def test_finished_seeds_are_kept(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        said = run("run", seeds=(1,))
        assert said == ["a robot can use these weights", said[1]]
        assert said[1].startswith("seed 1 (1 of 1): validation weighted F1 0.")
        (tmp_path / "run" / "seed-1" / "metrics.json").write_text("{}")  # would be written again
        with interrupted("save_checkpoint", 2, after=True), pytest.raises(Interruption):
            run("run", seeds=(1, 5))
        (tmp_path / "run" / "seed-1-copy").mkdir()
        (tmp_path / "run" / "seed-1-copy" / "model.safetensors").touch()
        assert Run.read(tmp_path / "run").seeds(tmp_path / "run") == [1]
        said = run("run", seeds=(1, 5))
        assert said[1] == "seed 1: finished before, kept"
        assert said[2].startswith("seed 5 (2 of 2)")
        assert Run.read(tmp_path / "run").seeds(tmp_path / "run") == [1, 5]
        assert (tmp_path / "run" / "seed-1" / "metrics.json").read_text() == "{}"

    def test_a_checkpoint_that_does_not_fit_is_named(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        path = tmp_path / "run" / "seed-1" / CHECKPOINT

        def stop() -> tuple[dict[str, Any], dict[str, Any]]:
            with interrupted("save_checkpoint", 1, after=True), pytest.raises(Interruption):
                run("run")
            stored = load_checkpoint(path.parent)
            assert stored is not None
            return stored

        sentence = f"{CHECKPOINT} is of another training .*: delete it to begin seed 1 again"
        for group in ("network", "average", "best", "random"):
            groups, progress = stop()
            del groups[group][next(iter(groups[group]))]
            save_checkpoint(path.parent, groups, progress)
            with pytest.raises(TrainingError, match=sentence) as caught:
                run("run")
            assert "\n" not in str(caught.value)
            path.unlink()
        groups, progress = stop()
        groups["network"]["new.weight"] = torch.zeros(1)
        save_checkpoint(path.parent, groups, progress)
        with pytest.raises(TrainingError, match=r"new\.weight"):
            run("run")
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match=r"cannot be read .*delete it to begin this training again"):
            run("run")


class TestEpoch:
    """Which epoch is kept, and on what grounds."""

    def test_it_is_the_best_on_the_validation_split(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        run("run", replace(TINY, epochs=8))
        curves = read_log(tmp_path / "run" / "seed-1" / "log.csv")
        f1 = curves["valid_weighted_f1"]
        smoothed = [np.mean(f1[max(0, last - 2) : last + 1]) for last in range(8)]
        chosen = json.loads((tmp_path / "run" / "seed-1" / "model.json").read_text())["training"]["epoch"]
        assert smoothed[chosen - 1] == pytest.approx(max(smoothed))
        metrics = json.loads((tmp_path / "run" / "seed-1" / "metrics.json").read_text())
        assert metrics["weighted_f1"] == pytest.approx(f1[chosen - 1], abs=1e-5)
        assert metrics["n"] == sum(VALID)
        assert {len(curve) for curve in curves.values()} == {8}

    def test_the_weights_are_those_of_that_epoch(
        self, run: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The validation scores are made up: the second of five epochs is the best."""
        scores, works = iter([0.2, 0.9, 0.5, 0.1, 0.1, 0.0]), trainer.score
        monkeypatch.setattr(trainer, "score", lambda *given: replace(works(*given), weighted_f1=next(scores)))
        monkeypatch.setattr(loop, "SMOOTHED", 1)
        averages, saves = [], save_checkpoint

        def seen(folder: Path, tensors: Any, progress: Any) -> None:
            prefix = "module."
            average = tensors["average"].items()
            averages.append({n.removeprefix(prefix): t.clone() for n, t in average if n.startswith(prefix)})
            saves(folder, tensors, progress)

        monkeypatch.setattr(loop, "save_checkpoint", seen)
        run("run", replace(TINY, epochs=5))
        kept = load_file(tmp_path / "run" / "seed-1" / "model.safetensors")
        equal = [all(torch.equal(kept[name], average[name]) for name in kept) for average in averages]
        assert equal == [False, True, False, False, False]
        assert json.loads((tmp_path / "run" / "seed-1" / "model.json").read_text())["training"]["epoch"] == 2

    def test_no_other_split_is_read(self, run: Callable[..., list[str]], data: Path, tmp_path: Path) -> None:
        """The data has no test split at all (see the fixture), and one that is there makes no difference."""
        assert not list(data.glob("*test*"))
        run("without")
        (data / "meld_test.jsonl").write_text("this would be refused")
        run("with")
        assert files(tmp_path / "with") == files(tmp_path / "without")

    @pytest.mark.parametrize("model", MODELS)
    def test_ten_small_dialogues_are_memorised(
        self, write_split: Callable[..., Corpus], run: Callable[..., list[str]], tmp_path: Path, model: str, words: Any
    ) -> None:
        folder = tmp_path / "ten"
        for split in ("train", "valid"):
            write_split(folder, split, [3, 4, 2, 3, 5, 1, 4, 3, 2, 3], seed=len(split))
        recipe = Recipe(
            model=model,
            hidden=32,
            dropout=0.0,
            label_smoothing=0.0,
            epochs=25,
            batch=2,
            learning_rate=0.01,
            averaging=0.0,
        )
        run("run", recipe, data=folder)
        found = evaluate(tmp_path / "run", folder, "meld", "train", cache=tmp_path / "cache", progress=False)
        assert found.summary["accuracy"]["mean"] > 0.95
        loss = read_log(tmp_path / "run" / "seed-1" / "log.csv")["train_loss"]
        assert loss[-1] < 0.3 * loss[0]  # channels of the input are dropped even here


class TestModalities:
    """What is there, what is missing, what is left out."""

    @pytest.mark.parametrize(
        ("given", "used", "widths"),
        [("tav", "ta", (12, 7, 0)), ("at", "ta", (12, 7, 0)), ("t", "t", (12, 0, 0)), ("tv", "t", (12, 0, 0))],
    )
    def test_those_that_the_corpus_has_are_used(
        self, run: Callable[..., list[str]], tmp_path: Path, given: str, used: str, widths: tuple[int, int, int]
    ) -> None:
        run("run", replace(TINY, epochs=1), modalities=given)
        read = Run.read(tmp_path / "run")
        assert (read.modalities, read.widths) == (used, widths)
        audio = "e-1" if "a" in used else "none"
        assert read.encoders == {"text": "words-1", "audio": audio, "vision": "none"}
        assert (
            json.loads((tmp_path / "run" / "seed-1" / "model.json").read_text())["encoders"]["audio"]["name"] == audio
        )

    def test_voices_alone(
        self, write_split: Callable[..., Corpus], run: Callable[..., list[str]], words: Any, tmp_path: Path
    ) -> None:
        for split in ("train", "valid"):
            write_split(tmp_path / "voices", split, [3, 2], widths={"audio": 7, "vision": 3}, missing={"vision": [1]})
        run("run", replace(TINY, epochs=1), data=tmp_path / "voices", modalities="a")
        assert Run.read(tmp_path / "run").encoders == {"text": "none", "audio": "e-1", "vision": "none"}
        assert words.seen == []

    def test_an_utterance_with_nothing_is_refused(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        sentence = "meld train: utterance 2 of dialogue 'd0' has none of the modalities 'a': add one that it has"
        with pytest.raises(ValueError, match=sentence):
            run("run", modalities="a")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("wrong", ["", "x", "tx", "T"])
    def test_letters_that_are_none(self, run: Callable[..., list[str]], wrong: str) -> None:
        with pytest.raises(ValueError, match=rf"modalities are '{wrong}': give some of t \(text\), a \(audio\), v"):
            run("run", modalities=wrong)

    def test_modalities_that_the_corpus_does_not_have(self, run: Callable[..., list[str]]) -> None:
        with pytest.raises(ValueError, match="meld has no vectors of the modalities 'v': add t, or extract them"):
            run("run", modalities="v")

    @pytest.mark.parametrize(
        ("change", "made"),
        [
            ({"widths": {"audio": 6}}, "width 6 of 'e-1'"),
            ({"widths": {}}, "none"),
            ({"widths": {"audio": 7}, "encoder": "e-2"}, "width 7 of 'e-2'"),
            ({"widths": {"audio": 7}, "encoder": ""}, "width 7 of 'unnamed'"),
        ],
    )
    def test_splits_of_different_encoders(
        self,
        write_split: Callable[..., Corpus],
        run: Callable[..., list[str]],
        data: Path,
        change: dict[str, Any],
        made: str,
    ) -> None:
        write_split(data, "valid", VALID, **change)
        sentence = f"audio vectors are width 7 of 'e-1' in the training split and {made} in the validation split"
        with pytest.raises(ValueError, match=sentence):
            run("run")
        run("words", replace(TINY, epochs=1), modalities="t")


class TestSizes:
    """Dialogues of every length."""

    @pytest.mark.parametrize("model", MODELS)
    def test_one_utterance_in_all(
        self, write_split: Callable[..., Corpus], run: Callable[..., list[str]], tmp_path: Path, model: str
    ) -> None:
        for split in ("train", "valid"):
            write_split(tmp_path / "one", split, [1])
        run("run", replace(TINY, model=model), data=tmp_path / "one", context="full")
        weights = load_file(tmp_path / "run" / "seed-1" / "model.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in weights.values())

    @pytest.mark.parametrize("model", MODELS)
    def test_five_hundred_utterances(
        self, write_split: Callable[..., Corpus], run: Callable[..., list[str]], tmp_path: Path, model: str
    ) -> None:
        for split in ("train", "valid"):
            write_split(tmp_path / "long", split, [500, 1], widths={"vision": 5})
        run("run", replace(TINY, model=model, epochs=1), data=tmp_path / "long")
        assert json.loads((tmp_path / "run" / "seed-1" / "metrics.json").read_text())["n"] == 501


@pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no folder {DATA} (SYNCTVA_DATA)")
def test_real_voices_are_not_guessed(run: Callable[..., list[str]], tmp_path: Path) -> None:
    """Two epochs on IEMOCAP's voices are better than to call everything by the most frequent class."""
    run("run", Recipe(hidden=32, epochs=2, batch=4, averaging=0.9), data=DATA, corpus="iemocap", modalities="a")
    labels = np.concatenate([dialogue.labels for dialogue in read_corpus(DATA, "iemocap", "valid").dialogues])
    share = np.bincount(labels).max() / len(labels)
    found = json.loads((tmp_path / "run" / "seed-1" / "metrics.json").read_text())
    assert found["n"] == len(labels)
    assert found["weighted_f1"] > 1.5 * share * 2 * share / (1 + share)


class TestRefusals:
    """Bad input ends in a sentence that says what is wrong where."""

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda lines: [*lines, '{"dialogue": "x", "utterances": []}'], "line 6: dialogue 'x' has no utterances"),
            (lambda lines: [line.replace('"emotion": "', '"emotion": "very ', 1) for line in lines], "is unknown"),
            (lambda lines: ["", *lines], "line 1: it is not JSON"),
        ],
    )
    def test_a_wrong_corpus(
        self, run: Callable[..., list[str]], data: Path, change: Any, sentence: str, tmp_path: Path
    ) -> None:
        path = data / "meld_train.jsonl"
        path.write_text("\n".join(change(path.read_text().splitlines())))
        with pytest.raises(CorpusError, match=rf"meld_train\.jsonl.*{sentence}"):
            run("run")
        assert not (tmp_path / "run").exists()

    def test_vectors_with_nan_in_part(self, run: Callable[..., list[str]], data: Path) -> None:
        rows = np.ones((sum(TRAIN), 7), np.float32)
        rows[3, 2] = np.nan
        np.savez(data / "meld_train_audio.npz", audio=rows, encoder=np.array("e-1"))
        with pytest.raises(CorpusError, match=r"meld_train_audio\.npz: 1 of 18 rows have values that are NaN"):
            run("run")

    def test_no_such_corpus(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match=r"iemocap_train\.jsonl: there is no such file"):
            run("run", corpus="iemocap")
        with pytest.raises(CorpusError, match="'mine' is not among the known corpora"):
            run("run", corpus="mine")

    def test_a_folder_with_another_run(self, run: Callable[..., list[str]], tmp_path: Path, words: Any) -> None:
        recipe = replace(TINY, epochs=1)
        run("run", recipe)
        before = files(tmp_path / "run")
        for changed, options in (
            ("recipe", {"recipe": replace(recipe, hidden=16)}),
            ("context", {"recipe": recipe, "context": "full"}),
            ("modalities, encoders, widths", {"recipe": recipe, "modalities": "t"}),
        ):
            with pytest.raises(RunError, match=rf"run holds another run \({changed} differ\): give another folder, or"):
                run("run", **options)
        words.name = "words-2"
        with pytest.raises(RunError, match=r"\(encoders differ\)"):
            run("run", recipe)
        assert files(tmp_path / "run") == before

    def test_what_cannot_be_built_leaves_no_folder(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"hidden \(10\) must be even and a multiple of heads \(4\)"):
            run("run", replace(TINY, hidden=10, heads=4))
        run("run", replace(TINY, epochs=1))

    def test_a_loss_that_is_not_finite(self, run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Loss, "__call__", lambda *_: torch.tensor(math.nan))
        with pytest.raises(TrainingError, match="seed 1: the loss is nan in epoch 1: lower the learning rate"):
            run("run")

    def test_a_device_that_is_not_there(
        self, run: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ValueError, match="the device is 'cuda', but PyTorch finds no such device here"):
            run("run", device="cuda")
        run("run", replace(TINY, epochs=1), device="auto")

    def test_the_description_of_a_run(self, run: Callable[..., list[str]], tmp_path: Path) -> None:
        run("run", replace(TINY, epochs=1, without="memory"))
        folder = tmp_path / "run"
        path, read = folder / "run.json", Run.read(folder)
        assert read.recipe == replace(TINY, epochs=1, without="memory")
        assert read.labels == EMOTIONS
        written = json.loads(path.read_text())
        for change, sentence in (
            ({"format_version": 0}, "has format version 0, this program reads 2: train again, or use the program"),
            ({"format_version": None}, "has format version None"),
            ({"recipe": written["recipe"] | {"speed": 3}}, r"run.json cannot be used .*speed.*: train again"),
            ({"recipe": written["recipe"] | {"epochs": 0}}, "parameter 'epochs': 0 is not from 1"),
            ({"recipe": None}, "cannot be used"),
            ({"labels": None}, "cannot be used"),
            ({"colour": "red"}, "cannot be used .*colour"),
        ):
            path.write_text(json.dumps(written | change))
            with pytest.raises(RunError, match=sentence):
                Run.read(folder)
        path.write_text(json.dumps({name: value for name, value in written.items() if name != "corpus"}))
        with pytest.raises(RunError, match=r"cannot be used .*corpus"):
            Run.read(folder)
        for content in (b"[]", b"{", b"3", b"\xff"):
            path.write_bytes(content)
            with pytest.raises(RunError, match=r"run\.json cannot be read .*: train again"):
                Run.read(folder)
        path.unlink()
        with pytest.raises(RunError, match=r"run\.json is missing: give a folder that synctva train wrote"):
            Run.read(folder)


def make_dialogue(**changes: Any) -> Dialogue:
    given: dict[str, Any] = {
        "id": "d",
        "speakers": ("Ross", "", "Rachel", "Ross"),
        "texts": ("a b", "", "a", "a b c"),
        "labels": np.array([0, 1, 2, 0]),
        "audio": np.array([[1, 2], [np.nan, np.nan], [3, 4], [5, 6]], np.float32),
        "vision": None,
        "times": None,
    }
    return Dialogue(**(given | changes))


def make_corpus(*dialogues: Dialogue) -> Corpus:
    return Corpus("meld", "train", EMOTIONS, dialogues, {"audio": "e"}, {"audio": 2})


class TestPreparation:
    """A corpus as tensors."""

    def test_masks_speakers_and_made_up_times(self) -> None:
        text = np.arange(24, dtype=np.float32).reshape(8, 3)
        one, two = prepare(make_corpus(make_dialogue(), make_dialogue(id="e", audio=None)), text, "ta")
        assert one.mask.tolist() == [
            [True, True, False],
            [True, False, False],
            [True, True, False],
            [True, True, False],
        ]
        assert two.mask.tolist() == [[True, False, False]] * 4
        assert two.text.tolist() == text[4:].tolist()
        assert one.speaker.tolist() == [0, -1, 2, 0]
        assert one.labels.tolist() == [0, 1, 2, 0]
        assert (one.end > one.start).all()
        assert (one.start[1:] > one.end[:-1]).all()
        assert one.end.sub(one.start).tolist() == pytest.approx([0.8, 0.2, 0.5, 1.1], abs=1e-5)

    def test_times_of_the_corpus_are_kept(self) -> None:
        times = np.array([[1, 2], [2, 4], [3, 4], [9, 9]], np.float32)
        (one,) = prepare(make_corpus(make_dialogue(times=times)), np.zeros((4, 3), np.float32), "t")
        assert torch.stack([one.start, one.end], dim=1).tolist() == times.tolist()

    def test_what_is_left_out_has_width_0_or_that_of_the_network(self) -> None:
        corpus, text = make_corpus(make_dialogue()), np.zeros((4, 3), np.float32)
        (one,) = prepare(corpus, text, "t")
        assert (one.audio.shape, one.vision.shape) == ((4, 0), (4, 0))
        (one,) = prepare(corpus, text, "t", (3, 2, 5))
        assert (one.audio.shape, one.vision.shape) == ((4, 2), (4, 5))
        assert one.mask.tolist() == [[True, False, False]] * 4

    def test_dialogues_make_a_batch(self) -> None:
        prepared = prepare(make_corpus(make_dialogue(), make_dialogue()), np.zeros((8, 3), np.float32), "ta")
        batch, labels = collate(prepared)
        assert batch.dialogue.tolist() == [0] * 4 + [1] * 4
        assert labels.tolist() == [0, 1, 2, 0] * 2
        assert len(batch) == 8

    def test_usable(self) -> None:
        assert usable(make_corpus(make_dialogue()), "vat") == "ta"
        assert usable(make_corpus(make_dialogue()), "va") == "a"


def make_batch(rows: int) -> DialogueBatch:
    given = prepare(make_corpus(*[make_dialogue(audio=np.ones((4, 2)))] * rows), np.zeros((4 * rows, 3)), "ta")
    return collate(given)[0]


class TestLeavingOut:
    """Modalities and speakers that are missing at random in training."""

    def test_a_modality_always_stays(self) -> None:
        batch, rng = make_batch(500), np.random.default_rng(0)
        mask = trainer._drop(batch, Recipe(modality_dropout=0.5), rng).mask
        assert mask.any(dim=1).all()
        assert not mask[:, 2].any()  # was never there
        # Both stay in a quarter of the cases, and are left alone in the quarter in which both would go.
        both = mask[:, :2].all(dim=1).double().mean()
        assert both == pytest.approx(0.5, abs=0.05)
        assert mask[:, 0].double().mean() == pytest.approx(0.75, abs=0.05)

    def test_a_dialogues_speakers_are_all_known_or_all_unknown(self) -> None:
        batch, rng = make_batch(500), np.random.default_rng(0)
        speaker = trainer._drop(batch, Recipe(unknown_speakers=0.25), rng).speaker.view(500, 4)
        unknown = (speaker < 0).all(dim=1)
        assert unknown.double().mean() == pytest.approx(0.25, abs=0.06)
        assert torch.equal(speaker[~unknown], batch.speaker.view(500, 4)[~unknown])

    def test_nothing_is_left_out_unless_asked_for(self) -> None:
        batch = make_batch(3)
        assert trainer._drop(batch, Recipe(), np.random.default_rng(0)) is batch


class TestLoss:
    """The formula, setting by setting."""

    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))

    def loss(self, votes: torch.Tensor | None = None, **settings: Any) -> float:
        class Output:
            logits = self.logits

        output: Any = Output()
        if votes is not None:
            output.votes = votes
        mask = torch.tensor([[True, row < 4, False] for row in range(6)])
        batch: Any = replace(make_batch(2), mask=torch.cat([mask, mask[:2]]))
        batch = replace(batch, mask=mask)
        recipe = Recipe(**{"class_weight": 0.0, "vote_loss": 0.0} | settings)
        return float(Loss(recipe, self.labels, 3)(output, batch, self.labels))

    def test_cross_entropy(self) -> None:
        for smoothing in (0.0, 0.2):
            expected = torch.nn.functional.cross_entropy(self.logits, self.labels, label_smoothing=smoothing)
            assert self.loss(label_smoothing=smoothing) == pytest.approx(float(expected))

    def test_rare_classes_count_more(self) -> None:
        own = torch.log_softmax(self.logits, dim=1)[range(6), self.labels]
        each = torch.tensor([own[:3].mean(), own[3:5].mean(), own[5]])
        assert self.loss(class_weight=1.0) == pytest.approx(-float(each.mean()))  # balanced: the mean over the classes

    def test_focal(self) -> None:
        own = torch.log_softmax(self.logits, dim=1)[range(6), self.labels]
        assert self.loss(focal=2.0) == pytest.approx(-float(((1 - own.exp()) ** 2 * own).mean()))

    def test_logit_adjustment(self) -> None:
        share = torch.tensor([3, 2, 1]) / 6
        expected = torch.nn.functional.cross_entropy(self.logits + 0.5 * share.log(), self.labels)
        assert self.loss(logit_adjustment=0.5) == pytest.approx(float(expected))

    def test_a_class_that_does_not_occur(self) -> None:
        recipe = Recipe(class_weight=1.0, logit_adjustment=1.0)
        assert math.isfinite(
            Loss(recipe, torch.zeros(6, dtype=torch.long), 3)._of(self.logits, torch.zeros(6, dtype=torch.long))
        )

    def test_votes_count_where_the_modality_is(self) -> None:
        votes = torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(1))
        votes[4:, 1] = votes[:, 2] = torch.nan
        expected = self.loss()
        for m, rows in ((0, 6), (1, 4)):
            expected += 0.3 * float(torch.nn.functional.cross_entropy(votes[:rows, m], self.labels[:rows]))
        assert self.loss(votes, vote_loss=0.3) == pytest.approx(expected, rel=1e-5)
        assert self.loss(votes) == pytest.approx(self.loss())


def test_the_learning_rate_goes_up_and_then_down() -> None:
    rates = [loop.one_cycle(step / 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[10] == 1.0 == max(rates)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_the_network_is_that_of_the_recipe() -> None:
    encoders = {"text": "t", "audio": "a", "vision": "none"}
    recipe = Recipe(hidden=16, heads=8, layers=3, window=4, without="memory", dropout=0.1)
    run = Run("meld", EMOTIONS, "full", "ta", encoders, (5, 4, 0), recipe)
    assert trainer.build(run).config == SyncTVAConfig(
        (5, 4, 0), 7, hidden=16, heads=8, layers=3, window=4, context="full", without=("memory",), dropout=0.1
    )
    for model in ("gru", "mlp"):
        network: Any = trainer.build(replace(run, recipe=replace(recipe, model=model)))
        assert isinstance(network, ARCHITECTURES[model][0])
        assert (network.config.widths, network.config.classes, network.config.hidden) == ((5, 4, 0), 7, 16)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_weights_with_other_tensors_are_refused(run: Callable[..., list[str]], tmp_path: Path, change: str) -> None:
    run("run", replace(TINY, epochs=1))
    path = tmp_path / "run" / "seed-1" / "model.safetensors"
    tensors = load_file(path)
    if change == "missing":
        del tensors["projection.0.mean"]
    else:
        tensors["projection.9.mean"] = torch.zeros(1)
    save_file(tensors, path)
    sentence = {"missing": "lacks the tensor 'projection.0.mean'", "extra": "unknown tensor 'projection.9.mean'"}[
        change
    ]
    with pytest.raises(ValueError, match=f"model.safetensors .*{sentence}"):
        trainer.load_network(Run.read(tmp_path / "run"), tmp_path / "run" / "seed-1", "cpu")
