"""Files → estimates. The network here is untrained: what is asserted is structure and order, not emotions."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from synctva_ros import cli, recognition
from synctva_ros.apps.recognize import Recognizer, emotion_fields, read_transcripts
from synctva_ros.defaults import SHIPPED_WEIGHTS, TEXT_ADAPTER, UNCERTAIN_BELOW
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import CROP_SIZE, FaceEncoder
from synctva_ros.events import EMOTIONS, Estimate, Features, Modality, Status
from synctva_ros.network.synctva import SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, save
from synctva_ros.sources.microphone import SourceError

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

    name = "words-1"
    width = 4

    def __init__(self, adapter: str = "") -> None:
        assert adapter == TEXT_ADAPTER

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
    monkeypatch.setattr(recognition, "TextEncoder", Words)

    def build(modalities: str = "tav", **options: Any) -> tuple[Recognizer, list[str]]:
        said: list[str] = []
        return Recognizer(modalities, weights=weights, warn=said.append, **options), said

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
    assert (line["status"] == "UNCERTAIN") == (line["confidence"] < UNCERTAIN_BELOW)
    assert line["valence"] is None
    assert line["modalities"] == Modality.AUDIO
    assert line["contributions"] == [0, 1, 0]
    assert line["stages"] == ["endpoint", "audio", "network"]
    assert line["durations"][0] == pytest.approx(0.5, abs=0.2), "the hang-over"
    assert line["header"]["stamp"]["sec"] + line["header"]["stamp"]["nanosec"] / 1e9 == pytest.approx(
        line["stream_end"], abs=0.02
    )
    assert json.loads(json.dumps(line)) == line


def test_the_fields_are_those_that_the_graph_publishes() -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from synctva_ros.ros.convert import emotion_to_dict, emotion_to_msg

    rng = np.random.default_rng(0)
    features = Features(
        "f1_2", 1_234_567_891, 4_000_000_003, stream_id="f1", stream_start=1.2345678912, stream_end=4.0, face_id="f1",
        text="Well, no.", durations={"endpoint": 0.5, "audio": 0.0123456789},
    )  # fmt: skip
    for confidence in (1.0, 0.0):
        shares = rng.dirichlet(np.ones(7)).astype(np.float32)
        shares = (confidence * np.eye(7, dtype=np.float32)[2] + (1 - confidence) * (shares + 2) / 15).astype(np.float32)
        estimate = Estimate(
            "f1_2", "d1", 3, EMOTIONS, shares, rng.dirichlet(np.ones(3)).astype(np.float32), Modality(7),
            (("f1_1", 0.7123456789), ("f1_0", 0.2876543211)), "m-1", 0.0123456789,
        )  # fmt: skip
        fields = emotion_fields(estimate, features)
        status = Status.FINAL if confidence else Status.UNCERTAIN
        published = emotion_to_dict(emotion_to_msg(estimate, features, status, recognition.FRAME_ID, features.end))
        assert published["stages"].pop() == "total", "which only who waited for the answer can tell"
        published["durations"].pop()
        assert fields == published
        assert list(fields) == list(published)


def test_defaults_are_those_of_the_graph() -> None:
    nodes = yaml.safe_load((ROOT / "config/perception.yaml").read_text())
    parameters = {name.removeprefix("/**/"): node["ros__parameters"] for name, node in nodes.items()}
    assert parameters["emotion"]["uncertain_below"] == UNCERTAIN_BELOW
    assert parameters["features"]["text_adapter"] == TEXT_ADAPTER
    assert parameters["media"]["frame_id"] == recognition.FRAME_ID
    assert (SHIPPED_WEIGHTS / "model.json").is_file()


def test_each_file_is_a_dialogue_of_its_own(build: Any, tmp_path: Path) -> None:
    recognizer, said = build("ta", whisper=WHISPER)
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
    recognizer, _ = build(whisper=WHISPER)
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
    for path in (mute, quiet):
        (line,) = recognizer.recognize(path)
        assert line["modalities"] == Modality.VISION
        assert line["face_id"] == "f1"
        assert line["stream_start"] == 0
        assert line["stream_end"] == pytest.approx(1.15, abs=0.15)
        assert line["stages"] == ["endpoint", "vision", "network"]
    assert said == []
    (line,) = recognizer.recognize(mute, "But here is what is said.")
    assert line["modalities"] == Modality.VISION | Modality.TEXT

    nobody = write_clip(tmp_path / "nobody.mp4", [np.full_like(face, 128)] * 5)
    assert list(recognizer.recognize(nobody)) == []
    assert said == [f"{nobody}: no face is found in its 5 pictures, and no speech either"]
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

    def record(self: FaceEncoder, observations: Any) -> Any:
        crops.extend(observation.crop for observation in observations)
        assert all(0 < observation.quality <= 1 for observation in observations)
        return encode(self, observations)

    monkeypatch.setattr(FaceEncoder, "encode", record)
    rng = np.random.default_rng(0)
    small, tall, large = (rng.integers(0, 255, shape, np.uint8) for shape in ((48, 48), (90, 60), (200, 200)))
    recognizer, said = build("v", cropped_faces=True)
    for picture in (small, tall, large):
        cv2.imwrite(str(tmp_path / "p.png"), picture)
        (line,) = recognizer.recognize(tmp_path / "p.png")
        assert line["modalities"] == Modality.VISION
    np.testing.assert_array_equal(crops[0], small)
    assert crops[1].shape == crops[2].shape == (CROP_SIZE, CROP_SIZE)
    clip = write_clip(tmp_path / "crop.mp4", [cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)] * 4)
    (line,) = recognizer.recognize(clip)
    assert len(crops) == 7, "each picture of the clip"
    assert said == []


def test_many_pictures_are_one_job(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer, _ = build("v", cropped_faces=True)
    for name in ("AudioEncoder", "FaceEncoder", "FaceDetector", "TextEncoder"):
        monkeypatch.delattr(recognition, name)  # nothing is loaded any more
    rng = np.random.default_rng(0)
    lines = []
    for number in range(60):
        path = tmp_path / f"{number:03}.jpg"
        cv2.imwrite(str(path), rng.integers(0, 255, (48, 48), np.uint8))
        lines += recognizer.recognize(path)
    assert [Path(line["file"]).stem for line in lines] == [f"{number:03}" for number in range(60)]
    assert {line["turn"] for line in lines} == {0}
    assert len({line["dialogue_id"] for line in lines}) == 60
    assert {line["face_id"] for line in lines} == {"f1"}


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
    found = read_transcripts(table, files, said.append)
    assert found == {files[0]: "One.", files[1]: "Two.", files[2]: ""}
    assert said == [f"{table}, line 5: no.wav is none of the 4 files"]
    table.write_text("file,text\nx.wav,Which?\n")
    with pytest.raises(ValueError, match=r"t\.csv: x\.wav may be in/a/x\.wav or in/b/x\.wav"):
        read_transcripts(table, files, said.append)


class TestCommand:
    """``synctva recognize``, with the weights of these tests."""

    @pytest.fixture(autouse=True)
    def line(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recognition, "TextEncoder", Words)
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
        assert captured.out == ""
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
            (["in/a.wav", "--transcripts", "t.csv"], "t.csv, line 2: the row has 3 cells"),
            (["in/a.wav", "--json", "no/r.jsonl"], "No such file or directory: 'no/r.jsonl'"),
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
