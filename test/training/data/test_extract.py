"""From MELD's table and clips to vectors; the clips are made here with PyAV."""

from __future__ import annotations

import csv
import functools
import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from synctva_ros.apps import cli
from synctva_ros.config import NODES
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.events import AudioChunk, Features
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.pipeline import Pipeline
from synctva_ros.street.table import STREET
from synctva_ros.training.data.dialogues import read_corpus
from synctva_ros.training.data.extract import extract_meld, read_meld
from synctva_ros.training.data.protocol import CorpusError

av = pytest.importorskip("av")
soxr = pytest.importorskip("soxr")
data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
pytest.importorskip("tqdm")

RATE, FPS = 16_000, 10
DEMO = Path(__file__).parents[3] / "synctva_ros/demo"
HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
FACE = np.ascontiguousarray(data.astronaut()[0:240, 95:335, ::-1])
OTHER = np.ascontiguousarray(FACE[:, ::-1])
NOBODY = np.full_like(FACE, 128)


@functools.cache
def speech(turn: int) -> np.ndarray:
    """A turn of the demo dialogue with the silence around it, ``[n]``."""
    said = json.loads((DEMO / "dialogue.json").read_text())["turns"][turn]
    samples = np.concatenate(
        [item.samples for item in MediaFile(DEMO / "dialogue.flac").play(0) if isinstance(item, AudioChunk)]
    )[:, 0]
    return samples[round((said["start"] - 0.5) * RATE) : round((said["end"] + 0.7) * RATE)]


def write_clip(path: Path, images: list[np.ndarray], sound: np.ndarray | None, rate: int = RATE) -> None:
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=FPS, width=240, height=240, pix_fmt="yuv420p")
        video.bit_rate = 1_000_000
        audio = out.add_stream("aac", rate=rate, layout="stereo") if sound is not None else None
        packets = []
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            packets += video.encode(frame)
        packets += video.encode()
        if audio is not None and sound is not None:
            both = np.stack([sound, 0.5 * sound])
            for first in range(0, len(sound), 1024):
                part = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(both[:, first : first + 1024]), format="fltp", layout="stereo"
                )
                part.sample_rate, part.pts, part.time_base = rate, first, Fraction(1, rate)
                packets += audio.encode(part)
            packets += audio.encode()
        for packet in packets:
            out.mux(packet)


def live(path: Path) -> Features:
    """What the stages of the nodes, set up as they are by default, make of a clip that comes in piece by piece."""
    log: Any = SimpleNamespace(info=lambda sentence: None, warning=pytest.fail, error=pytest.fail)
    stages = [stage for node in ("utterance", "faces", "features") for stage in STREET[node](NODES[node](), log)]
    pipeline = Pipeline(stages, lambda: 0)
    found = [
        event
        for item in MediaFile(path, warn=pytest.fail).play(0)
        for event in pipeline.push(item)
        if isinstance(event, Features) and event.is_final
    ]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "dia2_utt0.mp4", [FACE] * 35, soxr.resample(speech(0), RATE, 48_000), 48_000)
    # A face, nobody for so long that its track ends, then another face for longer: the second one counts.
    write_clip(folder / "dia2_utt1.mp4", [FACE] * 9 + [NOBODY] * 11 + [OTHER] * 20, speech(2))
    write_clip(folder / "dia10_utt0.mp4", [NOBODY] * 30, speech(1))
    write_clip(folder / "dia10_utt1.mp4", [FACE] * 4, None)
    write_clip(folder / "dia10_utt2.mp4", [FACE] * 4, np.zeros(6400, np.float32))
    (folder / "dia10_utt5.mp4").write_bytes(b"\0" * 1000)
    return folder


def rows() -> list[list[str]]:
    """One of the utterances, dialogue 10's fourth, has no clip; its last clip is broken."""
    numbers = [(10, 0), (10, 1), (10, 2), (10, 3), (10, 5), (2, 1), (2, 0)]
    emotions = ["neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust"]
    return [
        [str(i), f"It\x92s, er, {d} {u}.", "Ross", emotions[i], "neutral", str(d), str(u), "4", "7", *times(u)]
        for i, (d, u) in enumerate(numbers)
    ]


def times(utterance: int) -> tuple[str, str]:
    """In both of MELD's ways to write them."""
    return f"00:21:{utterance:02},250", f"0:21:{utterance + 1:02},750"


def write_table(path: Path, table: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER.split(","), *table])
    return path


def test_meld_becomes_a_corpus(tmp_path: Path, clips: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = extract_meld(write_table(tmp_path / "t.csv", rows()), clips, tmp_path / "out", "valid", progress=False)
    errors = capfd.readouterr().err
    assert [d.id for d in corpus.dialogues] == ["2", "10"]
    two, ten = corpus.dialogues
    assert two.texts == ("It\u2019s, er, 2 0.", "It\u2019s, er, 2 1.")
    assert two.speakers == ("Ross", "Ross")
    assert [corpus.labels[label] for label in two.labels] == ["disgust", "fear"]
    assert two.times is not None
    assert two.times.tolist() == [[1260.25, 1261.75], [1261.25, 1262.75]]
    assert corpus.encoders == {"audio": AudioEncoder().name, "vision": FaceEncoder().name}
    assert corpus.widths == {"audio": AudioEncoder().width, "vision": FaceEncoder().width}

    assert two.audio is not None
    assert two.vision is not None
    for number in range(2):
        expected = live(clips / f"dia2_utt{number}.mp4")
        np.testing.assert_array_equal(two.audio[number], expected.audio_vector)
        np.testing.assert_array_equal(two.vision[number], expected.vision_vector)
    assert live(clips / "dia2_utt1.mp4").face_id == "f2"

    assert ten.audio is not None
    assert ten.vision is not None
    assert np.isfinite(ten.audio).all(1).tolist() == [True, False, False, False, False]
    assert np.isfinite(ten.vision).all(1).tolist() == [False, True, True, False, False]
    for name, problem in (
        ("dia10_utt0", "no face that can be read is found in"),
        ("dia10_utt1", "no speech is found"),
        ("dia10_utt2", "no speech is found"),
        ("dia10_utt3", "no such file"),
        ("dia10_utt5", "cannot be read"),
    ):
        assert any(name in line and problem in line for line in errors.splitlines())
    assert "7 utterances: audio in 3, vision in 4; 2 clips are missing or cannot be read" in errors

    read = read_corpus(tmp_path / "out", "meld", "valid")
    assert (read.encoders, read.widths) == (corpus.encoders, corpus.widths)
    for a, b in zip(read.dialogues, corpus.dialogues, strict=True):
        assert (a.id, a.speakers, a.texts) == (b.id, b.speakers, b.texts)
        for field in ("labels", "audio", "vision", "times"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_a_clip_of_quite_another_length_than_its_row_is_said_and_left_out(
    tmp_path: Path, clips: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = rows()[-1:]
    for end, others in (("00:21:03,250", 0), ("00:21:09,000", 1), ("00:21:00,260", 1)):
        table[0][-2:] = ["00:21:00,250", end]
        path = write_table(tmp_path / "t.csv", table)
        corpus = extract_meld(path, clips, tmp_path, "a", modalities="v", progress=False)
        errors = capfd.readouterr().err
        assert errors.count("dia2_utt0.mp4: the clip is 3.") == errors.count("; it is left out") == others
        assert ("1 much longer or shorter than their rows are left out" in errors) == bool(others)
        (dialogue,) = corpus.dialogues
        assert dialogue.vision is not None
        assert np.isnan(dialogue.vision).all() == bool(others)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path: Path, clips: Path) -> None:
    table = write_table(tmp_path / "t.csv", rows()[-1:])
    for name in ("meld_a_vision.npz", "meld_a.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
        with pytest.raises(OSError, match=rf"{name}: it cannot be written \(No space left on device\); make room"):
            extract_meld(table, clips, tmp_path, "a", modalities="v", progress=False)
        (tmp_path / name).unlink()


def test_one_modality(tmp_path: Path, clips: Path) -> None:
    table = write_table(tmp_path / "t.csv", rows()[-1:])
    expected = live(clips / "dia2_utt0.mp4")
    (voice_only,) = extract_meld(table, clips, tmp_path, "a", modalities="a", progress=False).dialogues
    assert voice_only.vision is None
    np.testing.assert_array_equal(voice_only.audio, [expected.audio_vector])
    (face_only,) = extract_meld(table, clips, tmp_path, "v", modalities="v", progress=False).dialogues
    assert face_only.audio is None
    np.testing.assert_array_equal(face_only.vision, [expected.vision_vector])
    with pytest.raises(ValueError, match="'t'; give a"):
        extract_meld(table, clips, tmp_path, "t", modalities="t")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (3, "bored", "Emotion is 'bored', which is none of neutral, joy"),
        (5, "x", "Dialogue_ID is 'x'"),
        (6, "-1", "Utterance_ID is '-1'"),
        (9, "00:21", "StartTime is '00:21', not a time such as 00:21:06,240"),
        (9, "00:61:06,240", "StartTime is '00:61:06,240'"),
        (9, "00:22:00,000", "EndTime 0:21:03,750 is before StartTime 00:22:00,000"),
        (6, "0", "utterance 0 of dialogue 10 is there twice"),
    ],
)
def test_a_malformed_row_is_refused(tmp_path: Path, column: int, value: str, reason: str) -> None:
    table = rows()
    table[1][1] = "two\nlines"
    table[2][column] = value
    path = write_table(tmp_path / "t.csv", table)
    with pytest.raises(CorpusError) as caught:
        read_meld(path)
    # The first line is the header, and the row before goes over two lines.
    assert (caught.value.file, caught.value.line) == (path, 5)
    assert reason in caught.value.reason


def test_a_malformed_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(CorpusError, match="no such file"):
        read_meld(path)
    for content, reason in (
        (b"", "line 1: column Utterance and Speaker"),
        (HEADER.replace("Emotion", "Mood").encode(), "line 1: column Emotion is missing"),
        (HEADER.encode(), "no utterances"),
        (HEADER.encode() + b"\n1,Hi,Ross\n", "line 2: the row has 3 cells, the first line 11"),
        (HEADER.encode() + b"\n1,\x9d,Ross\n", "line 2: it is neither UTF-8 nor Windows-1252"),
        (HEADER.encode() + b'\n1,"' + b"x" * 200_000, "line 2: field larger"),
    ):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=reason):
            read_meld(path)


def test_a_table_is_read_as_its_authors_meant_it(tmp_path: Path) -> None:
    """Bytes of Windows-1252 among UTF-8, with an apostrophe as each of them writes it, and times without all digits."""
    path = tmp_path / "t.csv"
    row = '1,"It{}s six.",Ross,anger,negative,0,{},1,1,"00:06:45,{}","00:06:47,{}"\r\n'
    path.write_bytes(
        HEADER.encode()
        + b"\r\n"
        + row.format("\u2019", 0, "048", "28").encode()
        + row.format("\u2019", 1, "9", "500").encode("cp1252")
        + row.format("\x92", 2, "900", "1").encode()
    )
    found = read_meld(path)
    assert [row.text for row in found] == ["It\u2019s six."] * 3
    assert [(row.start, row.end) for row in found] == [(405.048, 407.28), (405.9, 407.5), (405.9, 407.1)]


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", rows())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    assert len(read_meld(path)) == 7


def test_the_command(tmp_path: Path, clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "t.csv", rows()[:1])
    line = ["extract", "--csv", str(table), "--out", str(tmp_path), "--split", "valid", "--modalities", "a", "--clips"]
    assert cli.main([*line, str(clips)]) == 0
    assert len(read_corpus(tmp_path, "meld", "valid")) == 1
    assert cli.main([*line, str(tmp_path)]) == 1
    assert "none of the table's 1 clips, such as dia10_utt0.mp4, is in this folder" in capsys.readouterr().err
