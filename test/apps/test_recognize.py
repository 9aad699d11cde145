"""Files → estimates. The network here is untrained: what is asserted is structure and order, not emotions."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from synctva_ros.apps import cli
from synctva_ros.apps.recognize import Recognizer, read_column
from synctva_ros.config import NODES
from synctva_ros.encoders import text as text_encoders
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.events import EMOTIONS, SHARES, Emotion, Modality
from synctva_ros.network.synctva import SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, save
from synctva_ros.sources.microphone import SourceError
from synctva_ros.street import table
from synctva_ros.weights import SHIPPED_WEIGHTS

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "synctva_ros/demo"
WHISPER = str(ROOT / "synctva_ros/weights/whisper_demo")
SCRIPT = json.loads((DEMO / "dialogue.json").read_text())["turns"]
FIELDS = [
    found[1]
    for line in (ROOT / "msg/Emotion.msg").read_text().splitlines()
    if (found := re.match(r"[\w/\[\]]+ +(\w+) *(#|$)", line))
]


class Words:
    """Stands in for the text encoder, which takes seconds to load."""

    modality: ClassVar[str] = "text"
    name = "words-1"
    width = 4
    languages = ("en",)

    def __init__(self, weights: str = "") -> None:
        assert weights == NODES["features"]().text_weights

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text), text.count(" "), 1.0, 0.0] for text in texts], np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    audio, face = AudioEncoder(), FaceEncoder()
    model = SyncTVA(SyncTVAConfig(widths=(Words.width, audio.width, face.width), classes=len(EMOTIONS)))
    names = {"text": Words.name, "audio": audio.name, "vision": face.name}
    save(model, folder, Description("test-1", EMOTIONS, names, {}))
    return folder


@pytest.fixture
def build(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Builds a recogniser; ``said`` holds its warnings."""
    monkeypatch.setattr(text_encoders, "TextEncoder", Words)

    def build(modalities: str = "tav", **overrides: Any) -> tuple[Recognizer, list[str]]:
        said: list[str] = []
        return Recognizer(modalities, {"emotion": {"weights": str(weights)}} | overrides, warn=said.append), said

    return build


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.ascontiguousarray(data.astronaut()[0:240, 95:335, ::-1])


def speech(path: Path, turns: int) -> Path:
    """The first turns of the demo's dialogue, as a WAV file."""
    with av.open(str(DEMO / "dialogue.flac")) as container:
        rate = container.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    return write_wav(path, sound[: round((SCRIPT[turns]["start"] - 0.4) * rate)], rate)


def write_wav(path: Path, sound: np.ndarray, rate: int = 16_000) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        out.mux([*stream.encode(frame), *stream.encode()])
    return path


def write_clip(path: Path, pictures: list[np.ndarray], sound: np.ndarray | None = None) -> Path:
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10, width=width, height=height, pix_fmt="yuv420p")
        video.bit_rate = 1_000_000
        audio = out.add_stream("aac", rate=16_000, layout="mono") if sound is not None else None
        packets = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            packets += video.encode(frame)
        packets += video.encode()
        if audio is not None and sound is not None:
            part = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 16_000, 0, Fraction(1, 16_000)
            packets += [*audio.encode(part), *audio.encode()]
        for packet in packets:
            out.mux(packet)
    return path


def test_a_line_has_all_fields_of_the_message(build: Any, tmp_path: Path) -> None:
    assert {"header", "probabilities", "model_id"} < set(FIELDS)
    recognizer, _ = build("a")
    (line,) = recognizer.recognize(speech(tmp_path / "one.wav", 1))
    assert list(line) == ["file", *FIELDS]
    assert line["file"] == str(tmp_path / "one.wav")
    assert line["labels"] == list(EMOTIONS)
    assert sum(line["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert line["label"] == EMOTIONS[int(np.argmax(line["probabilities"]))]
    assert line["confidence"] == max(line["probabilities"])
    assert (line["status"] == "UNCERTAIN") == (line["confidence"] < NODES["emotion"]().uncertain_below)
    assert line["valence"] is None
    assert line["modalities"] == Modality.AUDIO
    assert line["contributions"] == [0, 1, 0]
    assert line["stages"] == ["turns", "fusion", "dialogue", "total"]
    assert line["durations"] == [pytest.approx(0.5, abs=0.2), 0, 0, line["durations"][0]], "the hang-over alone"
    assert line["work"] == ["audio", "network"]
    assert min(line["work_durations"]) > 0
    assert line["header"]["stamp"]["sec"] + line["header"]["stamp"]["nanosec"] / 1e9 == pytest.approx(
        line["stream_end"], abs=0.02
    )
    assert json.loads(json.dumps(line)) == line


def test_the_fields_are_those_of_the_event() -> None:
    names = [name for field in fields(Emotion)[2:] for name in SHARES.get(field.name, (field.name,))]
    assert ["header", *names] == FIELDS


def test_defaults_are_those_of_the_nodes(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parameters, but for those without which files would be recognised more slowly, or words asked of nobody."""
    configs: dict[str, Any] = {}

    def note(node: str) -> Any:
        made = table.STREET[node]

        def make(config: Any, log: Any) -> Any:
            configs[node] = config
            return made(config, log)

        return make

    for node in list(table.STREET):
        monkeypatch.setitem(table.STREET, node, note(node))
    build()
    changed = {
        f"{node}.{name}": value
        for node, config in configs.items()
        for name, value in vars(config).items()
        if value != getattr(NODES[node](), name)
    }
    assert changed.pop("emotion.weights")
    assert changed == {
        "utterance.speculate": False,
        "utterance.provisional_interval": 0.0,
        "features.face_memory": 600.0,
    }
    assert (SHIPPED_WEIGHTS / "model.json").is_file()


def test_parameters_are_those_of_the_nodes(build: Any, tmp_path: Path) -> None:
    path = speech(tmp_path / "one.wav", 1)
    recognizer, _ = build("a", utterance={"hangover": 0.3}, emotion={"uncertain_below": 1.0})
    (line,) = recognizer.recognize(path)
    assert line["status"] == "UNCERTAIN"
    assert line["durations"][0] < 0.45
    for wrong, part in (
        ({"utterance": {"hangover": 99.0}}, "parameter 'hangover': 99.0 is not from 0.1 to 3"),
        ({"features": {"audio_encoder": "no-such"}}, "no-such"),
    ):
        with pytest.raises(ValueError, match=part):
            build("a", **wrong)


def test_each_file_is_a_dialogue_of_its_own(build: Any, tmp_path: Path) -> None:
    recognizer, said = build("ta", transcriber={"model": WHISPER})
    path = speech(tmp_path / "talk.wav", 3)
    lines = list(recognizer.recognize(path))
    assert [line["text"] for line in lines] == [turn["text"] for turn in SCRIPT[:3]]
    assert [line["turn"] for line in lines] == [0, 1, 2]
    assert len({line["dialogue_id"] for line in lines}) == 1
    assert [len(line["context_ids"]) for line in lines] == [0, 1, 2]
    assert all(a["stream_end"] < b["stream_start"] for a, b in pairwise(lines))
    for line, turn in zip(lines, SCRIPT, strict=False):
        assert line["stream_start"] == pytest.approx(turn["start"], abs=0.2)
        assert line["modalities"] == Modality.TEXT | Modality.AUDIO
    again = list(recognizer.recognize(path))
    assert [line["turn"] for line in again] == [0, 1, 2]
    assert [line["probabilities"] for line in again] == [line["probabilities"] for line in lines]
    assert recognizer.counters.utterances == 6
    assert said == []


def test_words_that_are_given_belong_to_the_longest_utterance(build: Any, tmp_path: Path) -> None:
    recognizer, _ = build(transcriber={"model": WHISPER})
    lines = list(recognizer.recognize(speech(tmp_path / "talk.wav", 3), "Nothing of that kind."))
    lengths = [line["stream_end"] - line["stream_start"] for line in lines]
    texts = [line["text"] for line in lines]
    assert texts[int(np.argmax(lengths))] == "Nothing of that kind."
    assert texts.count("") == 2, "Whisper is not asked"
    (line,) = recognizer.recognize(speech(tmp_path / "one.wav", 1), "")
    assert line["text"] == ""


def test_modalities_that_are_left_out_do_not_count(build: Any, tmp_path: Path) -> None:
    path = speech(tmp_path / "one.wav", 1)
    for letters, text, present in (
        ("t", "Hello.", Modality.TEXT),
        ("a", "Hello.", Modality.AUDIO),
        ("ta", "Hello.", Modality.TEXT | Modality.AUDIO),
        ("t", None, Modality(0)),
        ("v", None, Modality(0)),
    ):
        recognizer, _ = build(letters)
        (line,) = recognizer.recognize(path, text)
        assert line["modalities"] == present, letters
        assert line["text"] == ("Hello." if "t" in letters and text else "")
        if not present:
            assert line["status"] == "UNCERTAIN"
            assert np.allclose(line["probabilities"], 1 / 7)
    for wrong in ("", "x", "ab"):
        with pytest.raises(ValueError, match="give letters of t"):
            build(wrong)


def test_a_clip_in_which_nobody_speaks_is_one_utterance_of_the_face(
    build: Any, tmp_path: Path, face: np.ndarray
) -> None:
    recognizer, said = build()
    mute = write_clip(tmp_path / "mute.mp4", [face] * 12)
    quiet = write_clip(tmp_path / "quiet.mp4", [face] * 12, np.zeros(19_200, np.float32))
    for path, face_id in ((mute, "f1"), (quiet, "f2")):
        (line,) = recognizer.recognize(path)
        assert line["modalities"] == Modality.VISION
        assert line["face_id"] == face_id
        assert line["stream_start"] == 0
        assert line["stream_end"] == pytest.approx(1.15, abs=0.15)
        assert line["stages"][-3:] == ["fusion", "dialogue", "total"]
        assert set(line["durations"]) == {0}, "nobody waited for a pause"
        assert line["work"][-2:] == ["vision", "network"]
    assert said == []
    (line,) = recognizer.recognize(mute, "But here is what is said.")
    assert line["modalities"] == Modality.VISION | Modality.TEXT

    nobody = write_clip(tmp_path / "nobody.mp4", [np.full_like(face, 128)] * 5)
    assert list(recognizer.recognize(nobody)) == []
    assert said == [f"{nobody}: no face is found in its 5 images, and no speech either"]
    assert recognizer.counters.without_face == 1
    blind, said = build("ta")
    assert list(blind.recognize(quiet)) == []
    assert said == [f"{quiet}: no speech is found in it"]


def test_speech_counts_with_the_faces_between_its_start_and_end(build: Any, tmp_path: Path, face: np.ndarray) -> None:
    recognizer, _ = build("av")
    with av.open(str(speech(tmp_path / "talk.wav", 2))) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16_000)
        frames = [new for old in container.decode(audio=0) for new in resampler.resample(old)]
        sound = np.concatenate([frame.to_ndarray().ravel() for frame in [*frames, *resampler.resample(None)]])
    pictures = round(len(sound) / 1600)
    shown = round(10 * (SCRIPT[1]["start"] - 0.5))  # the second turn is spoken off screen
    path = write_clip(tmp_path / "talk.mp4", [face] * shown + [np.full_like(face, 128)] * (pictures - shown), sound)
    first, second = recognizer.recognize(path)
    assert first["modalities"] == Modality.AUDIO | Modality.VISION
    assert second["modalities"] == Modality.AUDIO
    assert second["face_id"] == ""


def test_sound_without_speech_gives_nothing_but_a_sentence(build: Any, tmp_path: Path) -> None:
    recognizer, said = build()
    path = write_wav(tmp_path / "silence.wav", np.zeros(16_000))
    assert list(recognizer.recognize(path)) == []
    assert said == [f"{path}: no speech is found in it"]
    assert (recognizer.counters.utterances, recognizer.counters.without_speech) == (0, 1)
    (line,) = recognizer.recognize(path, "Words are words.")
    assert line["modalities"] == Modality.TEXT


def test_a_picture_is_an_utterance_of_the_face(build: Any, tmp_path: Path, face: np.ndarray) -> None:
    recognizer, said = build()
    cv2.imwrite(str(tmp_path / "face.png"), face)
    (line,) = recognizer.recognize(tmp_path / "face.png")
    assert line["modalities"] == Modality.VISION
    assert line["face_id"] == "f1"
    assert line["stream_start"] == line["stream_end"] == 0
    assert list(line) == ["file", *FIELDS]
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((64, 64), 90, np.uint8))
    assert list(recognizer.recognize(tmp_path / "wall.png")) == []
    assert said == [f"{tmp_path / 'wall.png'}: no face is found in it"]
    deaf, said = build("ta")
    assert list(deaf.recognize(tmp_path / "face.png")) == []
    assert said == [f"{tmp_path / 'face.png'}: no speech is found in it"]


def test_cropped_faces_are_not_looked_for_and_small_ones_not_enlarged(
    build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops: list[np.ndarray] = []
    encode = FaceEncoder.encode

    def record(self: FaceEncoder, given: Any) -> Any:
        crops.extend(given)
        return encode(self, given)

    monkeypatch.setattr(FaceEncoder, "encode", record)
    rng = np.random.default_rng(0)
    small, tall, large = (rng.integers(0, 255, shape, np.uint8) for shape in ((48, 48), (90, 60), (200, 200)))
    recognizer, said = build("v", faces={"face_detector": "whole-image"})
    for picture in (small, tall, large):
        cv2.imwrite(str(tmp_path / "p.png"), picture)
        (line,) = recognizer.recognize(tmp_path / "p.png")
        assert line["modalities"] == Modality.VISION
    side = FaceEncoder().side
    assert small.shape == (side, side)
    crops = [crop for crop in crops if not np.array_equal(crop, np.zeros_like(crop))]
    np.testing.assert_array_equal(crops[0], small)
    assert crops[1].shape == crops[2].shape == (side, side)
    clip = write_clip(tmp_path / "crop.mp4", [cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)] * 4)
    (line,) = recognizer.recognize(clip)
    crops = [crop for crop in crops if not np.array_equal(crop, np.zeros_like(crop))]
    assert len(crops) == 4, "what looks as it did before need not be looked at again"
    assert said == []


def test_many_pictures_are_one_job(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, _ = build("v", faces={"face_detector": "whole-image"})
    for node in list(table.STREET):
        monkeypatch.setitem(table.STREET, node, pytest.fail)  # nothing is loaded any more
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        path = tmp_path / f"{number:03}.jpg"
        cv2.imwrite(str(path), rng.integers(0, 255, (48, 48), np.uint8))
        lines += recognizer.recognize(path)
    assert [Path(line["file"]).stem for line in lines] == [f"{number:03}" for number in range(60)]
    assert {line["turn"] for line in lines} == {0}
    assert len({line["dialogue_id"] for line in lines}) == 60
    assert len({line["face_id"] for line in lines}) == 60, "nobody is known from one file to the next"


def test_what_cannot_be_read_is_named(build: Any, tmp_path: Path) -> None:
    recognizer, _ = build("a")
    (tmp_path / "broken.wav").write_bytes(b"x" * 100)
    (tmp_path / "broken.png").write_bytes(b"x" * 100)
    for name in ("broken.wav", "broken.png", "missing.mp4", "missing.jpg"):
        with pytest.raises(SourceError, match=name):
            list(recognizer.recognize(tmp_path / name))


def test_transcripts_name_files_by_path_or_name(tmp_path: Path) -> None:
    files = [Path("in/a/x.wav"), Path("in/b/x.wav"), Path("in/y.wav"), Path("in/z.wav")]
    table = tmp_path / "t.csv"
    table.write_text("file,text\na/x.wav,One.\nin/b/x.wav, Two. \ny.wav,\nno.wav,Three.\n")
    said: list[str] = []
    found = read_column(table, "text", files, said.append)
    assert found == {files[0]: "One.", files[1]: "Two.", files[2]: ""}
    assert said == [f"{table}, line 5: no.wav is none of the 4 files"]
    table.write_text("file,text\nx.wav,Which?\n")
    with pytest.raises(ValueError, match=r"t\.csv: x\.wav may be in/a/x\.wav or in/b/x\.wav"):
        read_column(table, "text", files, said.append)


def test_whose_files_they_are_is_said_in_each_line(build: Any, tmp_path: Path) -> None:
    recognizer, _ = build("a")
    path = speech(tmp_path / "one.wav", 1)
    people = [line["person_id"] for name in ("anna", "", "anna") for line in recognizer.recognize(path, None, name)]
    assert people == ["anna", "", "anna"]


class TestCommand:
    """``synctva recognize``, with the weights of these tests."""

    @pytest.fixture(autouse=True)
    def line(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text_encoders, "TextEncoder", Words)
        self.folder = tmp_path / "in"
        self.folder.mkdir()
        self.options = ["--weights", str(weights)]

    def recognize(self, *arguments: object) -> int:
        return cli.main(["recognize", *map(str, arguments), *self.options])

    def test_a_folder_becomes_json_lines_and_one_bad_file_does_not_end_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rng = np.random.default_rng(0)
        for name in ("b/2.png", "b/1.png", "c.jpg", ".hidden.png"):
            (self.folder / name).parent.mkdir(exist_ok=True)
            cv2.imwrite(str(self.folder / name), rng.integers(0, 255, (48, 48), np.uint8))
        (self.folder / "a.jpg").write_bytes(b"x" * 100)
        (self.folder / "labels.csv").touch()
        write_wav(self.folder / "z.wav", np.zeros(8000))
        out = tmp_path / "r.jsonl"
        assert self.recognize(self.folder, tmp_path / "no.mp4", "--cropped-faces", "--json", out) == 1
        captured = capsys.readouterr()
        shown = captured.out.splitlines()  # a table, beside the file
        assert ["c.jpg" in line for line in shown] == [True, False, False]
        names = [Path(json.loads(line)["file"]).name for line in out.read_text().splitlines()]
        assert names == ["c.jpg", "1.png", "2.png"], "a folder's own files, then those of the folders in it"
        errors = captured.err.splitlines()
        for part in ("a.jpg: cannot be read", "no.mp4: there is no such file", "z.wav: no speech is found"):
            assert sum(part in line for line in errors) == 1, captured.err
        assert errors[0] == "Without --transcripts or --whisper there are no words: voice and face only."
        assert errors[-1] == ("3 utterances in 6 files; 1 without speech; 2 cannot be read; 1 of other types left out")

    def test_lines_for_people_or_json_go_to_standard_output(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = speech(self.folder / "talk.wav", 2)
        (tmp_path / "t.csv").write_text('file,text\ntalk.wav,"Well, [hm]."\nother.wav,No.\n')
        words = ["--transcripts", tmp_path / "t.csv"]
        assert self.recognize(self.folder, *words) == 0
        captured = capsys.readouterr()
        first, second = captured.out.splitlines()
        assert "talk.wav" in first
        assert f"{SCRIPT[0]['start']:5.1f} to" in first
        assert "voice" in second
        assert captured.out.count("“Well, [hm].”") == 1
        assert "t.csv, line 3: other.wav is none of the 1 files" in captured.err
        assert "there are no words" not in captured.err
        assert self.recognize(path, *words, "--json", "-", "--modalities", "a") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["modalities"] for line in lines] == [Modality.AUDIO] * 2

    def test_the_timeline_is_written(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        path = speech(self.folder / "talk.wav", 1)
        assert self.recognize(path, "--modalities", "a", "--plot", tmp_path / "t.svg") == 0
        assert "talk.wav -->" in (tmp_path / "t.svg").read_text()

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            (["in"], "there are no media files or pictures in"),
            (["in/a.wav", "--plot", "t.pdf"], "choose such a name"),
            (["in/a.wav", "--speakers", "t.csv"], "t.csv, line 1: column speaker is missing"),
            (["in/a.wav", "--transcripts", "t.csv"], "t.csv, line 2: the row has 3 cells"),
            (["in/a.wav", "--json", "no/r.jsonl"], "no/r.jsonl: it cannot be written"),
            (["in/a.wav", "--weights", "no"], "no"),
            (["in/a.wav", "--face-detector", "no.onnx"], "no file no.onnx"),
        ],
    )
    def test_what_is_given_wrongly_is_one_sentence(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        reason: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("t.csv").write_text("file,text\na.wav,one,two\n")
        self.options = [] if "--weights" in options else self.options
        assert self.recognize(*options, "--modalities", "tv") == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        own = [line for line in captured.err.splitlines() if line.startswith("synctva: ")]
        assert len(own) == 1
        assert reason in own[0]

    def test_other_letters_are_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            self.recognize("x.wav", "--modalities", "xyz")
        assert "'xyz': give some of the letters t (words), a (voice) and v (face)" in capsys.readouterr().err
