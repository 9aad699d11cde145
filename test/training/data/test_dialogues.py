"""Reading and writing corpora, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synctva_ros.events import EMOTIONS
from synctva_ros.training.data import registry
from synctva_ros.training.data.dialogues import (
    CORPORA,
    VECTORS,
    Corpus,
    Dialogue,
    as_heard,
    as_recognised,
    as_written,
    read_corpus,
    write_corpus,
)
from synctva_ros.training.data.protocol import CorpusError
from synctva_ros.training.data.registry import read_split

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[4] / "shared/data")) / "erc"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no folder {DATA} (SYNCTVA_DATA)")


def dialogue(identity: Any = "d", n: int = 2, **changes: Any) -> dict[str, Any]:
    """A dialogue as it stands in a file."""
    utterances = [{"speaker": f"p{i % 2}", "text": f"word {i}", "emotion": EMOTIONS[i]} for i in range(n)]
    return {"dialogue": identity, "utterances": utterances} | changes


def changed(**changes: Any) -> dict[str, Any]:
    """A dialogue whose second utterance is changed; None takes the entry away."""
    record = dialogue()
    merged = record["utterances"][1] | changes
    record["utterances"][1] = {key: value for key, value in merged.items() if value is not None}
    return record


def write(folder: Path, *lines: dict[str, Any] | bytes, **vectors: np.ndarray) -> Path:
    path = folder / "meld_train.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    for modality, array in vectors.items():
        np.savez(folder / f"meld_train_{modality}.npz", **{modality: array})
    return path


def test_texts() -> None:
    assert as_written("Don\x92t! ") == "Don\u2019t!"
    assert as_recognised("Don\u2019t!  Really?! O.K. ") == "don't really o k"


def test_words_only(tmp_path: Path) -> None:
    write(tmp_path, dialogue("a", 3), changed(text=" It\x92s"))
    corpus = read_corpus(tmp_path, "meld", "train")
    assert len(corpus) == 5
    assert (corpus.name, corpus.split, corpus.labels) == ("meld", "train", EMOTIONS)
    assert corpus.encoders == corpus.widths == {}
    first, second = corpus.dialogues
    assert (first.id, first.speakers, first.labels.tolist()) == ("a", ("p0", "p1", "p0"), [0, 1, 2])
    assert second.texts == ("word 0", "It\u2019s")
    assert first.audio is first.vision is first.times is None


def test_vectors_are_found_by_their_rows(tmp_path: Path) -> None:
    audio = np.arange(10, dtype=np.float16).reshape(5, 2)
    audio[1] = np.nan
    write(tmp_path, dialogue("a", audio_rows=[3, 5]), dialogue("b", audio_rows=[0, 2]), audio=audio)
    corpus = read_corpus(tmp_path, "meld", "train")
    assert (corpus.widths, corpus.encoders) == ({"audio": 2}, {"audio": ""})
    first, second = (d.audio for d in corpus.dialogues)
    assert first is not None
    assert second is not None
    assert first.dtype == np.float32
    assert first.tolist() == [[6, 7], [8, 9]]
    assert second[0].tolist() == [0, 1]
    assert np.isnan(second[1]).all()


FINITE = st.floats(-1e6, 1e6, width=32)
NAMES = st.text(max_size=8)


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    name = draw(st.sampled_from(sorted(CORPORA)))
    labels = CORPORA[name]
    widths = {modality: width for modality in VECTORS if (width := draw(st.integers(0, 3)))}
    dialogues = []
    for identity in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        n = draw(st.integers(1, 4))

        def rows(modality: str, n: int = n) -> np.ndarray | None:
            if modality not in widths:
                return None
            row = st.lists(FINITE, min_size=widths[modality], max_size=widths[modality])
            missing = st.just([np.nan] * widths[modality])
            return np.array([draw(row | missing) for _ in range(n)], np.float32)

        def votes(n: int) -> np.ndarray:
            counts = np.array([draw(st.lists(st.integers(0, 9), min_size=7, max_size=7)) for _ in range(n)], np.float32)
            counts[counts.sum(1) == 0] = np.nan
            return counts

        times = np.array([sorted(draw(st.tuples(FINITE, FINITE))) for _ in range(n)], np.float32)
        dialogues.append(
            Dialogue(
                id=identity,
                speakers=tuple(draw(NAMES) for _ in range(n)),
                texts=tuple(as_written(draw(st.text(max_size=20))) for _ in range(n)),
                labels=np.array([draw(st.integers(0, len(labels) - 1)) for _ in range(n)]),
                audio=rows("audio"),
                vision=rows("vision"),
                times=times if draw(st.booleans()) else None,
                votes=votes(n) if labels == EMOTIONS and draw(st.booleans()) else None,
            )
        )
    encoders = {modality: draw(st.sampled_from(["", "encoder-1"])) for modality in widths}
    return Corpus(name, "valid", labels, tuple(dialogues), encoders, widths)


@settings(deadline=None)
@given(corpora())
def test_what_is_written_is_read(corpus: Corpus) -> None:
    with TemporaryDirectory() as folder:
        write_corpus(corpus, Path(folder))
        found = read_corpus(Path(folder), corpus.name, "valid")
    for field in ("name", "split", "labels", "encoders", "widths"):
        assert getattr(found, field) == getattr(corpus, field)
    assert len(found) == len(corpus)
    for a, b in zip(found.dialogues, corpus.dialogues, strict=True):
        assert (a.id, a.speakers, a.texts) == (b.id, b.speakers, b.texts)
        for field in ("labels", "audio", "vision", "times", "votes"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_older_vectors_do_not_stay_beside_new_words(tmp_path: Path) -> None:
    write(tmp_path, dialogue(audio_rows=[0, 2]), audio=np.ones((2, 3)))
    corpus = read_corpus(tmp_path, "meld", "train")
    write_corpus(Corpus("meld", "train", EMOTIONS, corpus.dialogues, {}, {}), tmp_path)
    assert read_corpus(tmp_path, "meld", "train").widths == {}


def test_vectors_that_are_announced_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, dialogue())
    corpus = read_corpus(tmp_path, "meld", "train")
    with pytest.raises(ValueError, match="dialogue 'd' has no vision"):
        write_corpus(Corpus("meld", "train", EMOTIONS, corpus.dialogues, {}, {"vision": 3}), tmp_path)


@pytest.mark.parametrize(
    ("line", "reason", "remedy"),
    [
        (b"{", "not JSON", "one JSON object on one line"),
        (b"", "not JSON", "one JSON object"),
        (b"\xff", "not JSON", "one JSON object"),
        (b"[" * 100_000, "not JSON", "one JSON object"),
        (b"[1]", "not a JSON object", "docs/corpora.md"),
        ({"utterances": []}, "no 'dialogue'", "add it"),
        ({"dialogue": "e"}, "no 'utterances'", "add it"),
        (dialogue(7), "'dialogue' is 7, not a text", "correct it"),
        (dialogue("e", 0), "no utterances", "take the line out"),
        (dialogue("first"), "'first' is on line 1 already", "its own id"),
        (dialogue(utterances=[3]), "utterance 1 of 1 is not a JSON object", "docs/corpora.md"),
        (changed(speaker=None), "utterance 2 of 2 has no 'speaker'", "add it"),
        (changed(text=5), "'text' is 5, not a text", "correct it"),
        (changed(emotion="bored"), "class 'bored' is unknown", "neutral, joy, sadness"),
        (changed(start=1.0, end=2.0), "1 of 2 utterances have no times", "for all of a dialogue or for none"),
        (changed(start=1.0), "'end' is null", "in seconds"),
        (changed(start=1.0, end=float("nan")), "'end' is NaN", "in seconds"),
        (changed(start=1.0, end=10**400), "not a finite number", "in seconds"),
        (changed(start=True, end=2), "'start' is true", "in seconds"),
        (changed(start=2.0, end=1.5), "ends at 1.5 s, before its start at 2.0 s", "correct the times"),
    ],
)
def test_a_bad_line_is_refused(tmp_path: Path, line: Any, reason: str, remedy: str) -> None:
    path = write(tmp_path, dialogue("first"), line, dialogue("last"))
    with pytest.raises(CorpusError) as caught:
        read_corpus(tmp_path, "meld", "train")
    assert (caught.value.file, caught.value.line) == (path, 2)
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy
    assert str(caught.value) == f"{path}, line 2: {caught.value.reason}; {caught.value.remedy}"


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (None, "has no 'audio_rows'"),
        (3, "not a list"),
        ([0], "not two whole numbers"),
        ([0, 2.0], "not two whole numbers"),
        ([2, 0], "there are 4 rows"),
        ([-2, 0], "there are 4 rows"),
        ([3, 5], "there are 4 rows"),
        ([0, 3], "3 rows for 2 utterances"),
    ],
)
def test_rows_must_be_those_of_the_utterances(tmp_path: Path, rows: Any, reason: str) -> None:
    write(tmp_path, dialogue(**({} if rows is None else {"audio_rows": rows})), audio=np.ones((4, 2)))
    with pytest.raises(CorpusError, match="line 1: ") as caught:
        read_corpus(tmp_path, "meld", "train")
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[1, np.nan], [1, 1]]), "1 of 2 rows have values that are NaN or infinite, first row 0"),
        (np.array([[1, 1], [np.inf, np.inf]]), "first row 1"),
        (np.array([[1, 1], [1e300, 1]]), "first row 1"),
        (np.ones(2), r"shape \(2,\)"),
        (np.ones((2, 0)), r"shape \(2, 0\)"),
        (np.ones((2, 2), np.int64), "type int64"),
        (np.array([[None, None]] * 2), "cannot be read"),
    ],
)
def test_bad_vectors_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    write(tmp_path, dialogue(audio_rows=[0, 2]), vision=array)
    with pytest.raises(CorpusError, match=rf"meld_train_vision\.npz: .*{reason}"):
        read_corpus(tmp_path, "meld", "train")


def test_a_file_without_vectors_is_refused(tmp_path: Path) -> None:
    write(tmp_path, dialogue(audio_rows=[0, 2]))
    path = tmp_path / "meld_train_audio.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path, "meld", "train")
    np.savez(path, vision=np.ones((2, 2)))
    with pytest.raises(CorpusError, match="array 'audio'"):
        read_corpus(tmp_path, "meld", "train")
    np.savez(path, audio=np.ones((2, 2)), encoder=np.ones(3))
    with pytest.raises(CorpusError, match="'encoder' is not a text"):
        read_corpus(tmp_path, "meld", "train")
    with path.open("wb") as file:
        np.save(file, np.ones((2, 2)))
    with pytest.raises(CorpusError, match="cannot be read"):
        read_corpus(tmp_path, "meld", "train")


def test_voice_and_face_have_the_same_rows(tmp_path: Path) -> None:
    write(tmp_path, dialogue(audio_rows=[0, 2]), audio=np.ones((2, 2)), vision=np.ones((3, 2)))
    with pytest.raises(CorpusError, match="it has 3 rows, but audio has 2"):
        read_corpus(tmp_path, "meld", "train")


def test_absent_files_and_corpora_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"iemocap_valid\.jsonl: there is no such file") as caught:
        read_corpus(tmp_path, "iemocap", "valid")
    assert caught.value.line is None
    with pytest.raises(CorpusError, match=r"'msp' is not among .* meld, dailydialog"):
        read_corpus(tmp_path, "msp", "valid")
    for nothing in (b"", b"\n"):
        (tmp_path / "meld_train.jsonl").write_bytes(nothing)
        with pytest.raises(CorpusError, match="the file is empty"):
            read_corpus(tmp_path, "meld", "train")


def write_votes(folder: Path, *votes: Any, identity: str = "d") -> None:
    (folder / "meld_train_votes.jsonl").write_text(json.dumps({"dialogue": identity, "votes": votes}) + "\n")


def test_votes_are_in_the_order_of_the_classes_and_become_soft_labels(tmp_path: Path) -> None:
    write(tmp_path, dialogue(n=3), dialogue("e"))
    # The file has an order of its own: neutral, joy, sadness, fear, anger, surprise, disgust.
    write_votes(tmp_path, [0, 0, 0, 3, 1, 0, 0], None, [0, 5, 0, 0, 0, 0, 0])
    first, second = read_corpus(tmp_path, "meld", "train").dialogues
    assert first.votes is not None
    assert dict(zip(EMOTIONS, first.votes[0], strict=True)) == dict.fromkeys(EMOTIONS, 0) | {"fear": 3, "anger": 1}
    assert np.isnan(first.votes[1]).all()
    assert second.votes is None

    hard, soft = (read_split(tmp_path, name, "train") for name in ("meld", "emotionlines"))
    assert [item.id for item in soft.items] == [item.id for item in hard.items] == ["d:0", "d:1", "d:2", "e:0", "e:1"]
    assert [item.text for item in soft.items] == [item.text for item in hard.items]
    targets, known = soft.targets()
    assert known.all()
    assert dict(zip(EMOTIONS, targets[0], strict=True)) == dict.fromkeys(EMOTIONS, 0) | {"fear": 0.75, "anger": 0.25}
    assert targets[2].argmax() == EMOTIONS.index("joy")
    assert np.isnan(targets).any(1).tolist() == [False, True, False, True, True]
    assert hard.targets()[0].argmax(1).tolist() == [0, 1, 2, 0, 1]
    (tmp_path / "meld_train_votes.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"meld_train_votes\.jsonl: there is no such file"):
        read_split(tmp_path, "emotionlines", "train")


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        (([1] * 7,), r"train\.jsonl, line 1: dialogue 'd' has 2 utterances, but 1 votes"),
        (([1] * 7, [1] * 6), r"votes\.jsonl, line 1: vote 2 is \[1, 1, 1, 1, 1, 1\], not 7 counts"),
        (([1] * 6 + [-1], None), "vote 1 is .* not 7 counts"),
        (([0.5] * 7, None), "vote 1 is .* not 7 counts"),
        ((None, [0] * 7), "in vote 2 nobody chose anything"),
    ],
)
def test_votes_that_do_not_fit_are_refused(tmp_path: Path, votes: Any, reason: str) -> None:
    write(tmp_path, dialogue())
    write_votes(tmp_path, *votes)
    with pytest.raises(CorpusError, match=reason):
        read_corpus(tmp_path, "meld", "train")


def test_votes_need_the_seven_classes(tmp_path: Path) -> None:
    (tmp_path / "iemocap_train.jsonl").write_text("{}")
    (tmp_path / "iemocap_train_votes.jsonl").write_text("{}")
    with pytest.raises(CorpusError, match=r"iemocap_train_votes\.jsonl: the corpus has no class neutral"):
        read_corpus(tmp_path, "iemocap", "train")


def test_votes_stay_where_new_vectors_are_written(tmp_path: Path) -> None:
    write(tmp_path, dialogue())
    corpus = read_corpus(tmp_path, "meld", "train")
    write_votes(tmp_path, [1] * 7, None)
    write_corpus(corpus, tmp_path)
    assert read_corpus(tmp_path, "meld", "train").dialogues[0].votes is not None


def test_a_corpus_in_this_layout_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "KITCHEN = DialogueCorpus(name='kitchen', classes=('calm', 'loud'), language='en', licence='CC0')"
    (tmp_path / "my_dialogues.py").write_text(
        f"from synctva_ros.training.data.dialogues import DialogueCorpus\n{line}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("kitchen", "my_dialogues:KITCHEN", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    record = {"dialogue": "d", "utterances": [{"speaker": "Ann", "text": "Out!", "emotion": "loud"}]}
    (tmp_path / "kitchen_train.jsonl").write_text(json.dumps(record))
    assert read_corpus(tmp_path, "kitchen", "train").dialogues[0].labels.tolist() == [1]
    assert read_split(tmp_path, "kitchen", "train").items[0].target is not None
    with pytest.raises(CorpusError, match="emovo is not in the layout for dialogues; give one of meld"):
        read_corpus(tmp_path, "emovo", "train")


def test_who_is_the_same_person(tmp_path: Path) -> None:
    for name, split, identity, speaker, emotion, person in (
        ("iemocap", "train", "Ses03F_impro06", "M", "neu", "Ses03M"),
        ("emorynlp", "train", "s1", "['Ross Geller', 'Joey']", "mad", "Ross Geller, Joey"),
        ("dailydialog", "train", "s1", "0", "joy", ""),
        ("meld", "train", "s1", "Ross", "joy", "Ross"),
    ):
        record = {"dialogue": identity, "utterances": [{"speaker": speaker, "text": "So", "emotion": emotion}]}
        (tmp_path / f"{name}_{split}.jsonl").write_text(json.dumps(record))
        assert read_split(tmp_path, name, split).items[0].person == person


@needs_data
@pytest.mark.parametrize(
    ("name", "split", "dialogues", "utterances", "widths"),
    [
        ("meld", "train", 1038, 9989, {"audio": 27}),
        ("meld", "valid", 114, 1109, {"audio": 27}),
        ("iemocap", "train", 108, 5163, {"audio": 112}),
        ("iemocap", "valid", 12, 647, {"audio": 112}),
        ("emorynlp", "valid", 89, 954, {}),
        ("dailydialog", "valid", 1000, 8069, {}),
    ],
)
def test_the_corpora_are_read(name: str, split: str, dialogues: int, utterances: int, widths: dict[str, int]) -> None:
    corpus = read_corpus(DATA, name, split)
    assert (len(corpus.dialogues), len(corpus), corpus.widths) == (dialogues, utterances, widths)
    labels = np.concatenate([dialogue.labels for dialogue in corpus.dialogues])
    assert set(labels) == set(range(len(CORPORA[name])))
    assert not any("\x80" <= c <= "\x9f" for d in corpus.dialogues for text in d.texts for c in text)


def test_reading_needs_no_torch() -> None:
    code = "import sys, synctva_ros.training.data.dialogues; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_speakers_as_ears_find_them() -> None:
    who = ("anna", "ben") * 500
    assert as_heard(who, 1.0, np.random.default_rng(0)) == who
    found = as_heard(who, 0.6, np.random.default_rng(0))
    right = np.mean([one == other for one, other in zip(who, found, strict=True)])
    assert right == pytest.approx(0.6, abs=0.05)
    assert found.count("") == pytest.approx(200, abs=50)
    assert found.count("a stranger") == pytest.approx(100, abs=40)
    assert set(found) == {"anna", "ben", "", "a stranger"}
