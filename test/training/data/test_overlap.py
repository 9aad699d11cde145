"""What two splits share, what is left out for it, and what is said of it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from synctva_ros.apps import cli
from synctva_ros.events import EMOTIONS, ImageArray
from synctva_ros.training.data import overlap
from synctva_ros.training.data.dialogues import read_corpus
from synctva_ros.training.data.faces import FER2013
from synctva_ros.training.data.overlap import check, dialogues_without_overlap, find_overlap, without_overlap
from synctva_ros.training.data.protocol import CorpusError, CorpusReader, Item, Split
from synctva_ros.training.data.registry import find_corpus, read_split

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[4] / "shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no folder {DATA} (SYNCTVA_DATA)")
LONG = "I never said that you could have it."
OTHER = "I never said that she could have it."
TARGET = np.eye(7, dtype=np.float32)[0]


def face(seed: int) -> ImageArray:
    """Something with large and small forms, as no two faces are alike."""
    noise = np.random.default_rng(seed).normal(size=(48, 48))
    forms = ndimage.gaussian_filter(noise, 4) * 20 + ndimage.gaussian_filter(noise, 1)
    return np.uint8(np.clip(128 + 40 * forms / forms.std(), 0, 255))


def seen(images: Sequence[ImageArray], name: str, corpus: CorpusReader = FER2013) -> Split:
    return Split(corpus, name, tuple(Item(f"{name}{n}", TARGET, image=image) for n, image in enumerate(images)))


def said(name: str, *dialogues: Sequence[str], corpus: str = "meld", persons: str = "") -> Split:
    """Dialogues of lines; the ids are such as ``train0:1``. Persons by their letters, in turn."""
    items = [
        Item(
            f"{name}{d}:{n}",
            TARGET,
            person=persons[n % len(persons)] if persons else "",
            text=text,
            dialogue=f"{name}{d}",
        )
        for d, lines in enumerate(dialogues)
        for n, text in enumerate(lines)
    ]
    return Split(find_corpus(corpus), name, tuple(items))


def pairs(train: Split, held_out: Split) -> list[tuple[str, str, str]]:
    return sorted((found.what, found.train, found.held_out) for found in find_overlap(train, held_out))


def test_pictures_that_are_the_same_or_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_ROWS", 3)  # so that pairs lie in several parts
    faces = [face(seed) for seed in range(12)]
    grey = np.full((48, 48), 128, np.uint8)
    lit = np.uint8(np.clip(0.7 * faces[5] + 60, 0, 255))
    cut = np.uint8(ndimage.zoom(faces[10].astype(float), 50 / 48, order=1)[1:49, 1:49])
    others = [face(99), faces[7], lit, cut, faces[11][:, ::-1], grey, faces[7]]
    assert pairs(seen([*faces, grey], "train"), seen(others, "valid")) == [
        ("picture", "train12", "valid5"),
        ("picture", "train7", "valid1"),
        ("picture", "train7", "valid6"),
        ("similar picture", "train10", "valid3"),
        ("similar picture", "train5", "valid2"),
    ]
    assert pairs(seen(faces[:5], "train"), seen(faces[5:], "valid")) == []


@pytest.mark.parametrize(
    ("train", "valid", "shared"),
    [
        ([["Okay.", "Go."]], [["Okay."], ["No.", "Okay.", "Stay."]], []),
        ([["Hi.", LONG]], [[OTHER], [LONG.upper() + "!!", "Hi."]], [("train0:1", "valid1:0")]),
        # A short line with the same one before it or behind it.
        (
            [["No.", "Okay.", "What are you doing?"]],
            [["Okay!", "what are you doing"]],
            [("train0:1", "valid0:0"), ("train0:2", "valid0:1")],
        ),
        ([["Okay.", "Go."]], [["Okay.", "Go."]], []),
        # Neighbours are in the same dialogue.
        ([["Okay."], ["What are you doing?"]], [["Okay.", "What are you doing?"]], []),
        ([["Okay.", "What are you doing?"]], [["Okay."], ["What are you doing?"]], []),
        ([[LONG], [LONG]], [[LONG]], [("train0:0", "valid0:0"), ("train1:0", "valid0:0")]),
    ],
)
def test_texts_with_the_same_neighbours_are_shared(
    train: list[list[str]], valid: list[list[str]], shared: list[tuple[str, str]]
) -> None:
    assert pairs(said("train", *train), said("valid", *valid)) == [("text", *pair) for pair in shared]


def test_what_actors_speak_is_not_compared() -> None:
    for corpus, count in (("goemotions", 1), ("ravdess", 0)):
        splits = [Split(find_corpus(corpus), name, (Item("1", TARGET, text=LONG),)) for name in ("train", "valid")]
        assert len(find_overlap(*splits)) == count


def test_recordings_are_the_same_by_their_bytes(tmp_path: Path) -> None:
    def heard(name: str, *contents: bytes) -> Split:
        items = []
        for number, content in enumerate(contents):
            (path := tmp_path / f"{name}{number}.wav").write_bytes(content)
            items.append(Item(path.stem, TARGET, path=path))
        return Split(find_corpus("emovo"), name, tuple(items))

    train, valid = heard("train", b"a", b"b", b""), heard("valid", b"c", b"b")
    assert pairs(train, valid) == [("recording", "train1", "valid1")]
    (tmp_path / "valid0.wav").unlink()
    with pytest.raises(CorpusError, match=r"valid0\.wav: the recording cannot be read \(No such file"):
        find_overlap(train, valid)


def test_persons_are_compared_within_a_corpus() -> None:
    train, valid = said("train", "ab", persons="AB"), said("valid", "ab", persons="BC")
    assert pairs(train, valid) == [("person", "B", "B")]
    assert pairs(train, said("valid", "ab", corpus="emorynlp", persons="BC")) == []


def test_whole_dialogues_are_left_out_and_persons_only_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    train = said("train", ["Hi.", LONG], ["Go.", "No."], [LONG, LONG], persons="AB")
    valid = said("valid", ["So.", LONG], persons="CA")
    kept = without_overlap(train, valid, print)
    assert [item.id for item in kept.items] == ["train1:0", "train1:1"]
    assert capsys.readouterr().out.splitlines() == [
        "meld valid holds 3 texts of meld train too; left out for that: 4 items in 2 dialogues of 6",
    ]
    # Who acts the same script in both splits shares its lines on purpose.
    acted = [said(name, ["Hi.", LONG], corpus="iemocap") for name in ("train", "valid")]
    assert without_overlap(*acted, print).items == acted[0].items
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="meld valid holds all of meld train: nothing is left to train on"):
        without_overlap(train, valid, print, persons=True)


def test_pictures_are_left_out_each_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    train, valid = seen([face(n) for n in range(4)], "train"), seen([face(9), face(2)], "valid")
    assert [item.id for item in without_overlap(train, valid, print).items] == ["train0", "train1", "train3"]
    assert "1 picture of fer2013 train too; left out for that: 1 item of 4" in capsys.readouterr().out


def write_dialogues(folder: Path, split: str, *dialogues: Sequence[str], name: str = "meld") -> None:
    folder.mkdir(exist_ok=True)
    emotion = {"meld": "joy", "emorynlp": "joyful"}[name]
    with (folder / f"{name}_{split}.jsonl").open("w") as file:
        for number, lines in enumerate(dialogues):
            turns = [{"speaker": "['Ann']", "text": text, "emotion": emotion} for text in lines]
            file.write(json.dumps({"dialogue": f"{split}{number}", "utterances": turns}) + "\n")


def test_dialogues_in_their_own_layout(tmp_path: Path) -> None:
    write_dialogues(tmp_path, "train", ["Hi.", LONG], ["Go."])
    write_dialogues(tmp_path, "valid", [LONG, "So."])
    lines: list[str] = []
    train, valid = (read_corpus(tmp_path, "meld", split) for split in ("train", "valid"))
    kept = dialogues_without_overlap(train, valid, lines.append)
    assert [dialogue.id for dialogue in kept.dialogues] == ["train1"]
    assert lines[0] == "meld valid holds 1 text of meld train too; left out for that: 2 items in 1 dialogue of 3"


def test_the_command_says_what_there_is_and_what_is_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dialogues(tmp_path / "erc", "train", ["Hi.", LONG], ["Go."])
    write_dialogues(tmp_path / "erc", "valid", ["So."], [OTHER])
    write_dialogues(tmp_path / "erc", "train", [OTHER], name="emorynlp")
    folder = tmp_path / "speech_emotion/emovo"
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w") as file:
        csv.writer(file).writerows(
            [("file", "emotion", "actor"), *((f"{n}.wav", "sad", f"f{n % 2}") for n in range(3))]
        )
    for number in range(3):
        (folder / f"{number}.wav").write_bytes(bytes([number > 0]))
    line = ["data", "check", "--data", str(tmp_path)]
    assert cli.main(line) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"not in {tmp_path}: emotionlines, iemocap, dailydialog, ravdess")
    assert lines[1].startswith("meld: dialogue, en; GPL-3")
    assert lines[2:7] == [
        f"  7 classes: {' '.join(EMOTIONS)}",
        "  train: 3 items, 2 dialogues, 1 person",
        "  valid: 2 items, 2 dialogues, 1 person",
        "  meld train and meld valid share",
        "    person: 1 of 1, 1 of 1",
    ]
    at = lines.index("  emorynlp train and meld valid share")
    assert lines[at - 2 : at + 2] == [
        "  train: 1 item, 1 dialogue, 1 person",
        "  it has one split: hold out people",
        "  emorynlp train and meld valid share",
        "    text: 1 of 1, 1 of 2",
    ]
    assert lines[-3:] == [
        "  train: 3 items, 2 persons",
        "    1 item of it is the same as an earlier one, byte by byte",
        "  it has one split: hold out people",
    ]
    assert cli.main([*line, "--corpus", "emovo"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("emovo: voice, it; LicenseRef-EMOVO: for research")
    assert cli.main([*line, "--corpus", "emovo", "nemo"]) == 1
    assert "nemo cannot be found in this folder, see docs/corpora.md" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"meld, .* cannot be found in this folder"):
        list(check(tmp_path / "nowhere"))


@needs_data
def test_fer2013_holds_its_validation_pictures_in_training() -> None:
    train, valid = (read_split(DATA, "fer2013", split) for split in ("train", "valid"))
    found = find_overlap(train, valid)
    assert len({each.held_out for each in found if each.what == "picture"}) == 283
    assert len({each.held_out for each in found}) == 464
    assert len({each.train for each in found}) == 712
    assert find_overlap(without_overlap(train, valid, print), valid) == []


@needs_data
@pytest.mark.parametrize(
    ("train", "valid", "shared"),
    [("meld", "meld", 0), ("dailydialog", "dailydialog", 1703), ("emorynlp", "meld", 85), ("meld", "emorynlp", 180)],
)
def test_lines_that_corpora_share(train: str, valid: str, shared: int) -> None:
    found = find_overlap(read_split(DATA, train, "train"), read_split(DATA, valid, "valid"))
    assert len({each.held_out for each in found if each.what == "text"}) == shared
