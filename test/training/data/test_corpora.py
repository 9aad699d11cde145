"""The protocol of corpora, the readers of voices, faces and sentences, and a corpus of one's own."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synctva_ros.events import EMOTIONS, ImageArray
from synctva_ros.training.data import registry
from synctva_ros.training.data.faces import read_images
from synctva_ros.training.data.protocol import CorpusError
from synctva_ros.training.data.registry import corpus_names, find_corpus, read_split
from synctva_ros.training.data.sentences import GROUPS

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[4] / "shared/data"))
VOTES = "file,ferplus_image,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
PAGE = Path(__file__).parents[3] / "docs/corpora.md"


@pytest.fixture
def kitchen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A corpus in a file of its own, as the page on corpora has it."""
    _, code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "my_kitchen.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "kitchen/train.csv", "words,mood,cook\nOut!,angry,Ann\n\nTaste it.,joy,Bob\n")
    return "my_kitchen:KITCHEN"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def picture(seed: int, side: int = 48) -> ImageArray:
    return np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)


def write_faces(path: Path, pictures: Mapping[str, ImageArray]) -> Path:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, image in pictures.items():
            file.writestr(name, cv2.imencode(".png", image)[1].tobytes())
    return path


def test_a_corpus_of_ones_own_is_one_file(kitchen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = read_split(tmp_path, kitchen, "train")
    assert [(item.id, item.person) for item in split.items] == [("Out!", "Ann"), ("Taste it.", "Bob")]
    assert split.persons == ("Ann", "Bob")
    targets, known = split.targets()
    assert [EMOTIONS[row.argmax()] for row in targets] == ["anger", "joy"], "by our names, in our order"
    assert targets.sum() == 2
    assert [name for name, there in zip(EMOTIONS, known, strict=True) if there] == ["joy", "anger"]

    point = EntryPoint("kitchen", kitchen, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    assert "kitchen" in corpus_names()
    assert find_corpus("kitchen") is find_corpus(kitchen)


def test_what_is_no_corpus_is_named(kitchen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"there is no corpus 'kitchen'; corpora are: meld, .*emobank"):
        find_corpus("kitchen")
    with pytest.raises(ValueError, match=r"'my_kitchen:Kitchen' is <class .* no CorpusReader"):
        find_corpus("my_kitchen:Kitchen")
    with pytest.raises(ValueError, match=r"'nowhere:X' cannot be imported \(ModuleNotFoundError"):
        find_corpus("nowhere:X")
    # Another package cannot take the place of ours.
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("emovo", kitchen, registry.GROUP)])
    assert find_corpus("emovo").language == "it"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("words,mood\nOut!,angry\n", "line 1: column cook is missing"),
        ("words,mood,cook\nOut!,angry,Ann\nOh.,bored,Bob\n", "line 3: class 'bored' is none of anger, joy"),
        ("words,mood,cook\nOut!,angry,Ann\nOut!,joy,Bob\n", r"Out! is there twice"),
        ("words,mood,cook\n", "it holds nothing"),
        ("words,mood,cook\nOut!,angry\n", "line 2: the row has 2 cells, the first line 3"),
        (b"words,mood,cook\n\x92,angry,Ann\n", "line 2: it is not UTF-8"),
    ],
)
def test_a_table_that_is_not_as_it_should_be_is_refused(
    kitchen: str, tmp_path: Path, table: str | bytes, reason: str
) -> None:
    write(tmp_path / "kitchen/train.csv", table)
    with pytest.raises(CorpusError, match=rf"train\.csv.*{reason}"):
        read_split(tmp_path, kitchen, "train")
    with pytest.raises(CorpusError, match=r"valid\.csv: there is no such file"):
        read_split(tmp_path, kitchen, "valid")


def test_all_corpora_say_what_they_are() -> None:
    names = corpus_names()
    assert len(names) == 13
    for name in names:
        corpus = find_corpus(name)
        assert (corpus.name, bool(corpus.language), bool(corpus.licence)) == (name, True, True)
        assert {corpus.relabels, *corpus.akin} - {""} <= set(names)


def test_voices(tmp_path: Path) -> None:
    table = tmp_path / "speech_emotion/nemo/labels.csv"
    write(
        table, "file,emotion,actor,sex,text\na/1.opus,surprised,EB0,female,Dobry wieczór.\n2.opus,neutral,SM0,male,Aż\n"
    )
    split = read_split(tmp_path, "nemo", "train")
    first, _ = split.items
    assert (first.id, first.person, first.text) == ("a/1.opus", "EB0", "Dobry wieczór.")
    assert first.path == table.parent / "a/1.opus"
    targets, known = split.targets()
    assert targets[0, EMOTIONS.index("surprise")] == targets[1, 0] == 1
    assert known.tolist() == [name != "disgust" for name in EMOTIONS], "nEMO says nothing about disgust"
    write(table, "file,emotion,actor,sex,text\n1.opus,disgusted,EB0,female,Dobry.\n")
    with pytest.raises(CorpusError, match="line 2: class 'disgust' is none of neutral"):
        read_split(tmp_path, "nemo", "train")
    # Other recordings, such as held-out ones, have a table of their own.
    with pytest.raises(CorpusError, match=r"nemo/labels_test\.csv: there is no such file"):
        read_split(tmp_path, "nemo", "test")


def test_faces_have_the_label_of_their_folder(tmp_path: Path) -> None:
    images = {"val/happy/b.png": picture(1), "val/sad/a.png": picture(2), "val/note.txt": picture(3)}
    write_faces(tmp_path / "faces/fer2013_val.zip", images)
    split = read_split(tmp_path, "fer2013", "valid")
    assert [item.id for item in split.items] == ["val/happy/b.png", "val/sad/a.png"]
    assert (split.images() == np.stack([picture(1), picture(2)])).all()
    assert [EMOTIONS[row.argmax()] for row in split.targets()[0]] == ["joy", "sadness"]
    write_faces(tmp_path / "faces/fer2013_val.zip", {"val/bored/a.png": picture(1)})
    with pytest.raises(CorpusError, match=r"fer2013_val\.zip: val/bored/a\.png: class 'bored' is none of"):
        read_split(tmp_path, "fer2013", "valid")


def test_votes_on_faces_are_soft_labels(tmp_path: Path) -> None:
    rows = {
        "mixed": ((4, 0, 0, 4, 0, 0, 0, 2, 0, 0), {"neutral": 0.5, "sadness": 0.5}),
        "fear": ((1, 0, 1, 0, 0, 0, 8, 0, 0, 0), {"fear": 0.8, "neutral": 0.1, "surprise": 0.1}),
        "anger": ((0, 0, 0, 0, 3, 1, 0, 3, 3, 0), {"anger": 0.75, "disgust": 0.25}),
        "contempt": ((3, 0, 0, 0, 0, 0, 0, 7, 0, 0), None),
        "unknown": ((4, 0, 0, 0, 0, 0, 0, 0, 5, 1), None),
        "no-face": ((0, 0, 0, 0, 0, 0, 0, 0, 0, 10), None),
        "nothing": ((0, 0, 0, 0, 0, 0, 0, 0, 0, 0), None),
    }
    lines = [f"train/happy/{name}.png,fer.png,{','.join(map(str, votes))}" for name, (votes, _) in rows.items()]
    table = write(tmp_path / "faces/ferplus_train.csv", "\n".join([VOTES, *lines]))
    names = [f"train/happy/{name}.png" for name in rows]
    write_faces(
        tmp_path / "faces/fer2013_train.zip",
        {name: picture(number, 24 + number) for number, name in enumerate([*names, "train/sad/not-voted.png"])},
    )
    split = read_split(tmp_path, "ferplus", "train")
    wanted = {name: targets for name, (_, targets) in rows.items() if targets}
    assert [Path(item.id).stem for item in split.items] == list(wanted)
    for item, shares in zip(split.items, wanted.values(), strict=True):
        assert item.target is not None
        assert item.target == pytest.approx([shares.get(name, 0.0) for name in EMOTIONS])
    assert split.images().shape == (3, 48, 48)

    write(table, "\n".join([VOTES, "train/happy/mixed.png,fer.png,1,0,0,0,x,0,0,0,0,0"]))
    with pytest.raises(CorpusError, match=r"line 2: anger is 'x', not a number of votes"):
        read_split(tmp_path, "ferplus", "train")
    write(table, "\n".join([VOTES, "train/happy/gone.png,fer.png,1,0,0,0,0,0,0,0,0,0"]))
    with pytest.raises(CorpusError, match=r"1 of its 1 pictures, such as train/happy/gone\.png, are not in .*fer2013_"):
        read_split(tmp_path, "ferplus", "train")


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    path = tmp_path / "faces.zip"
    with pytest.raises(CorpusError, match="no such file"):
        read_images(path)
    path.write_bytes(b"no archive")
    with pytest.raises(CorpusError, match="no whole ZIP archive"):
        read_images(path)
    for content, reason in (
        ({}, "holds no picture"),
        ({"sad/a.jpg": b""}, "a.jpg is no"),
        ({"sad/a.jpg": b"x"}, "a.jpg is no"),
    ):
        with zipfile.ZipFile(path, "w") as file:
            for name, data in content.items():
                file.writestr(name, data)
        with pytest.raises(CorpusError, match=reason):
            read_images(path)


def comment(*emotions: str, text: Any = "Well\u2028well.") -> str:
    return json.dumps({"text": text, "emotions": emotions}, ensure_ascii=False)


def test_several_labels_of_a_comment_share_its_target(tmp_path: Path) -> None:
    lines = [comment("neutral"), comment("gratitude", "curiosity"), comment("joy", "love"), comment("remorse")]
    path = write(tmp_path / "text_emotion/goemotions_dev.jsonl", "\n".join(lines))
    split = read_split(tmp_path, "goemotions", "valid")
    assert [item.text for item in split.items] == ["Well\u2028well."] * 4
    shares = [dict(zip(EMOTIONS, row, strict=True)) for row in split.targets()[0]]
    assert [{name: share for name, share in each.items() if share} for each in shares] == [
        {"neutral": 1},
        {"joy": 0.5, "surprise": 0.5},
        {"joy": 1},
        {"sadness": 1},
    ]
    for line, reason in (
        (comment("boredom"), "line 1: emotion 'boredom' is none of admiration, "),
        (comment(), "line 1: emotion 'none' is none of"),
        (comment("joy", text=3), "line 1: a comment: 'text' is 3, not a text"),
        ("[]", "line 1: a comment is not a JSON object"),
        ("{", "line 1: it is not JSON"),
        ("", "the file is empty"),
    ):
        path.write_text(line)
        with pytest.raises(CorpusError, match=reason):
            read_split(tmp_path, "goemotions", "valid")


def test_the_groups_of_emotions_are_all_of_them_once() -> None:
    assert tuple(GROUPS) == EMOTIONS
    theirs = [name for group in GROUPS.values() for name in group]
    assert len(theirs) == len(set(theirs)) == 28


def test_values_go_from_minus_one_to_one(tmp_path: Path) -> None:
    path = tmp_path / "text_emotion/emobank_train.csv"
    write(path, 'id,valence,arousal,dominance,text\na_1,1.0,3,5,"So, ""this"""\n')
    (item,) = read_split(tmp_path, "emobank", "train").items
    assert (item.id, item.text, item.target) == ("a_1", 'So, "this"', None)
    assert item.values is not None
    assert item.values.tolist() == [-1, 0, 1]
    for value in ("0.9", "nan", "high", "5.1"):
        write(path, f"id,valence,arousal,dominance,text\na_1,1.0,{value},5,So\n")
        with pytest.raises(CorpusError, match=f"line 2: arousal is '{value}', not a number from 1 to 5"):
            read_split(tmp_path, "emobank", "train")


def test_targets_need_all_classes_of_the_corpus(tmp_path: Path) -> None:
    write(tmp_path / "text_emotion/emobank_train.csv", "id,valence,arousal,dominance,text\na,1,1,1,Oh\n")
    split = read_split(tmp_path, "emobank", "train")
    targets, known = split.targets()
    assert np.isnan(targets).all()
    assert not known.any()
    with pytest.raises(ValueError, match="emobank: 1 of 1 items have no picture"):
        split.images()
    write(tmp_path / "speech_emotion/ased/labels.csv", "file,emotion,actor\na,sad,1\n")
    with pytest.raises(ValueError, match="ased has the classes anger, fear, which are not asked for"):
        read_split(tmp_path, "ased", "train").targets(("neutral", "joy", "sadness"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no folder {DATA} (SYNCTVA_DATA)")
@pytest.mark.parametrize(
    ("name", "items", "persons"),
    [
        ("emotionlines", (9989, 1109), 260),
        ("ravdess", (1140,), 19),
        ("emovo", (588,), 6),
        ("ased", (2474,), 65),
        ("nemo", (2175,), 9),
        ("fer2013", (28709, 3591), 0),
        ("ferplus", (28223, 3517), 0),
        ("goemotions", (43410, 5426), 0),
        ("emobank", (8062, 1000), 0),
    ],
)
def test_the_corpora_are_read_whole(name: str, items: tuple[int, ...], persons: int) -> None:
    corpus = find_corpus(name)
    splits = [corpus.read(DATA, split) for split in corpus.splits]
    assert tuple(map(len, splits)) == items
    assert len(splits[0].persons) == persons
    for split in splits:
        targets, known = split.targets()
        judged = ~np.isnan(targets[:, 0])
        np.testing.assert_allclose(targets[judged].sum(1), 1, rtol=1e-5)
        assert (targets[judged].sum(0) > 0).tolist() == known.tolist(), "all its classes occur, and no others"
        assert all(item.path is None or item.path.is_file() for item in split.items)
