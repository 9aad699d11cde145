"""The weights that come with the package: whole, described, and good for what their cards say."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from make_dialogue import write_flac

from synctva_ros.apps.recognize import Recognizer
from synctva_ros.config import NODES
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import EMOTIONS, Modality
from synctva_ros.weights import SHIPPED_WEIGHTS

WEIGHTS = SHIPPED_WEIGHTS.parent
DEMO = WEIGHTS.parent / "demo"
FOLDERS = sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir() and path.name != "__pycache__")
#: Those that judge people.
JUDGES = ("face_expression", "voice_emotion", "synctva")
DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[2] / "shared/data"))
RAVDESS = DATA / "speech_emotion/ravdess"
FER2013 = DATA / "faces/fer2013_val.zip"
CLIPS = DATA / "audio_visual/ravdess_actor01_full"

#: As a speech recogniser writes them.
SENTENCES = {
    "neutral": (
        "the meeting is at three o clock",
        "i will put the keys on the table",
        "the bus leaves from platform four",
        "she works at the library on main street",
    ),
    "joy": (
        "i am so happy i passed the exam",
        "this is the best day of my life",
        "yay we won the game",
        "i love it thank you so much",
    ),
    "sadness": (
        "i miss my grandmother so much since she died",
        "my dog died last night and i can not stop crying",
        "i feel so lonely and sad",
        "i am heartbroken she left me",
    ),
    "anger": (
        "how dare you lie to me like that",
        "get out of my house right now i hate you",
        "i am so angry with you",
        "stop yelling at me you idiot",
    ),
    "surprise": (
        "oh my god i can not believe it",
        "wow i did not expect that at all",
        "what are you serious",
        "no way really",
    ),
    "fear": (
        "i am so scared there is someone in the house",
        "please do not hurt me",
        "i am afraid of the dark",
        "i am terrified of flying",
    ),
    "disgust": (
        "ew that is disgusting",
        "that smells so gross i am going to throw up",
        "yuck there is a hair in my soup",
        "this food is rotten and revolting",
    ),
}


def needs(path: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not path.exists(), reason=f"there is no {path} (SYNCTVA_DATA)")


def titles(card: str) -> str:
    """Headings and first cells of table rows: what a reader looks for."""
    lines = card.lower().splitlines()
    return "\n".join(
        [line for line in lines if line.startswith("#")]
        + [line.split("|")[1] for line in lines if line.startswith("|")]
    )


@pytest.mark.parametrize("name", FOLDERS)
def test_each_has_a_model_card(name: str) -> None:
    card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
    parts = {"data": ("data",), "licence": ("licence",), "figures": ("figures",), "limits": ("limits", "fail")}
    if name in JUDGES:
        parts["who it may fail for"] = ("fail",)
    missing = [part for part, words in parts.items() if not any(word in titles(card) for word in words)]
    if "licence" in missing and "licence:" in card.lower():
        missing.remove("licence")
    assert not missing, f"{name}/README.md has no heading or table row for {', '.join(missing)}"
    figures = card.split("## Figures")[1].split("\n## ")[0]
    assert re.search(r"\d", figures), f"{name}/README.md gives no figures"


def test_all_are_there_and_not_too_large() -> None:
    assert {*JUDGES, "text_feelings", "whisper_demo"} <= set(FOLDERS)
    size = sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file())
    assert size <= 40_000_000


def test_nothing_is_pickled() -> None:
    for path in WEIGHTS.rglob("*"):
        if not path.is_file() or path.parent.name == "__pycache__":
            continue
        # CTranslate2's own format; all others are tensors, JSON, text or Python.
        known = path.suffix in (".safetensors", ".json", ".md", ".py")
        assert known or path == WEIGHTS / "whisper_demo/model.bin", path
        start = path.read_bytes()[:2]
        assert start != b"PK", f"{path} is a ZIP archive, as torch.save writes"
        assert not (start[:1] == b"\x80" and start[1:] <= b"\x05"), f"{path} is a pickle"


def test_the_network_asks_for_the_encoders_that_come_with_it() -> None:
    written = json.loads((SHIPPED_WEIGHTS / "model.json").read_text(encoding="utf-8"))
    assert written["labels"] == list(EMOTIONS)
    shipped = {"text": TextEncoder(NODES["features"]().text_weights), "audio": AudioEncoder(), "vision": FaceEncoder()}
    assert written["encoders"] == {
        modality: {"name": encoder.name, "width": encoder.width} for modality, encoder in shipped.items()
    }


def test_plain_sentences_get_their_label(tmp_path: Path) -> None:
    recognizer = Recognizer("t")
    write_flac(tmp_path / "silence.flac", np.zeros(1600, np.float32))
    wrong: dict[str, str] = {}
    for emotion, sentences in SENTENCES.items():
        for sentence in sentences:
            (line,) = recognizer.recognize(tmp_path / "silence.flac", sentence)
            assert line["modalities"] == Modality.TEXT
            if line["label"] != emotion:
                wrong[sentence] = f"{line['label']} {line['confidence']:.2f}, not {emotion}"
    assert len(wrong) <= 2, wrong


def test_a_synthetic_voice_says_nothing_of_feelings() -> None:
    lines = list(Recognizer("a").recognize(DEMO / "dialogue.flac"))
    assert len(lines) == 12
    assert {line["modalities"] for line in lines} == {Modality.AUDIO}
    for line in lines:  # most turns of any dialogue are neutral
        assert line["status"] == "UNCERTAIN" or line["label"] == "neutral", line
        assert line["confidence"] < 0.5


def test_a_drawn_face_is_no_crash(tmp_path: Path) -> None:
    from bad_input import make_bad_input

    make_bad_input(tmp_path)
    recognizer = Recognizer("v", {"faces": {"face_detector": "whole-image"}})  # else no detector may find it
    for name in ("cartoon", "smiley"):
        (line,) = recognizer.recognize(tmp_path / f"{name}.png")
        assert line["modalities"] == Modality.VISION
        assert sum(line["probabilities"]) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.long
@needs(RAVDESS)
def test_the_voice_of_people_who_were_never_heard(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    from synctva_ros.training.tasks.voice import predict, read_clips

    encoder = AudioEncoder()
    member = {speakers[0]: number for number, speakers in enumerate(encoder.training["unheard_speakers"])}
    with (RAVDESS / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if f"ravdess/{row['actor']}" in member]
    folder = tmp_path / "speech_emotion/ravdess"
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["file", "emotion", "actor"], extrasaction="ignore")
        table.writeheader()
        table.writerows({**row, "file": RAVDESS / row["file"]} for row in rows)
    clips = read_clips(tmp_path, "ravdess")
    assert len({clip.person for clip in clips}) == len(member) >= 4
    assert len(clips) == len(rows) >= 200
    right = np.array(
        [predict(encoder.network, member[clip.person], [clip.cut()])[0].argmax() == clip.label for clip in clips]
    )
    labels = np.array([clip.label for clip in clips])
    recall = np.mean([right[labels == label].mean() for label in range(len(EMOTIONS))])
    assert recall > 0.6


@needs(FER2013)
def test_faces_that_were_never_seen(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra train is not installed")
    from synctva_ros.training.tasks.face import as_tensors, read_faces

    images, targets = as_tensors(read_faces(DATA, "fer2013", "valid"))
    labels = targets.argmax(dim=1).numpy()
    rows = np.arange(1, len(labels), 12)  # odd: the network on top is not trained on these either
    recognizer = Recognizer("v", {"faces": {"face_detector": "whole-image"}})
    right = []
    for row in rows:
        path = tmp_path / f"{row}.png"
        cv2.imwrite(str(path), images[row, 0].numpy())
        (line,) = recognizer.recognize(path)
        right.append(line["label"] == EMOTIONS[labels[row]])
    assert len(right) >= 299
    assert np.mean(right) > 0.62


@needs(CLIPS)
def test_the_graph_says_what_recognize_says() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    recognizer = Recognizer()
    for name in ("01-01-01-01-01-01-01.mp4", "02-01-08-02-01-01-01_muxed.mp4"):
        expected = list(recognizer.recognize(CLIPS / name))
        options = ("run", "--media", str(CLIPS / name), "--fast", "--json", "--set", "transcriber.model=")
        done = subprocess.run(
            [sys.executable, "-m", "synctva_ros.apps.cli", *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        published: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(published) == len(expected) >= 1
        for got, wanted in zip(published, expected, strict=True):
            assert got["label"] == wanted["label"]
            assert got["status"] == wanted["status"]
            assert got["modalities"] == wanted["modalities"]
            np.testing.assert_allclose(got["probabilities"], wanted["probabilities"], atol=0.02)
