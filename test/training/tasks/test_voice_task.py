"""Training of the voice encoder on a small made-up corpus: reading it, the folds, and from end to end."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from scipy.io import wavfile
from torch import nn

from synctva_ros.encoders.audio import AudioEncoder, as_speech
from synctva_ros.encoders.voice_network import VoiceNetwork, VoiceNetworkConfig
from synctva_ros.evaluation.classes import class_index
from synctva_ros.evaluation.metrics import Scores
from synctva_ros.events import EMOTIONS, SAMPLE_RATE, FloatArray
from synctva_ros.sources.microphone import SourceError
from synctva_ros.training.data import voice_augmentation
from synctva_ros.training.loop import TrainingError, read_log
from synctva_ros.training.recipe import VoiceRecipe
from synctva_ros.training.tasks import voice as voice_encoder
from synctva_ros.training.tasks.voice import (
    NAME,
    Targets,
    VoiceClip,
    fold_of,
    leave_out,
    pad,
    predict,
    read_clips,
    train_voice_encoder,
)

av = pytest.importorskip("av")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")

#: Pitch [Hz] and syllables a second of the two emotions that the corpus has.
MANNERS = {"angry": (290.0, 5.0), "sad": (105.0, 2.0)}
#: Formants of the four speakers [Hz].
SPEAKERS = {"2": (500, 1500), "9": (560, 1650), "10": (640, 1800), "11": (720, 2000)}
CORPUS = "speech_emotion/ravdess"
SHORT = VoiceRecipe(folds=2, epochs=2, batch=8)
CLIPS = 3  # of each speaker and emotion


def voice(pitch: float, pace: float, formants: Iterable[int], seed: int, seconds: float = 0.9) -> FloatArray:
    """A buzz through two formants, in syllables, with a quarter second of silence around."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    frequency = pitch * (1 + 0.05 * rng.standard_normal()) * 2 ** (0.2 * np.sin(3 * t + rng.uniform(0, 6)))
    buzz = np.diff(np.floor(np.cumsum(frequency) / SAMPLE_RATE), prepend=0.0)
    for formant in formants:
        pole = np.exp(-np.pi * 90 / SAMPLE_RATE)
        buzz = signal.lfilter([1], [1, -2 * pole * np.cos(2 * np.pi * formant / SAMPLE_RATE), pole**2], buzz)
    sound = buzz * (0.1 + np.sin(np.pi * pace * t) ** 2)
    sound = np.pad(0.4 * sound / np.abs(sound).max(), SAMPLE_RATE // 4)
    return np.asarray(sound + rng.normal(0, 1e-4, len(sound)), np.float32)


def write_wav(path: Path, sound: FloatArray, rate: int = SAMPLE_RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.round(sound * 32767).astype(np.int16))


def write_flac(path: Path, sound: FloatArray, rate: int) -> None:
    """The same sound in two channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.repeat(np.round(sound * 32767).astype(np.int16), 2)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("flac", rate=rate, layout="stereo")
        resampler = av.AudioResampler(stream.codec_context.format, "stereo", rate, frame_size=1024)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux(stream.encode(part))


def write_labels(folder: Path, rows: Iterable[tuple[str, ...]], header: str = "file,emotion,actor") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows: list[tuple[str, ...]] = []
    for speaker, formants in SPEAKERS.items():
        for emotion, (pitch, pace) in MANNERS.items():
            for take in range(CLIPS):
                name = f"Actor_{speaker}/{emotion}-{take}.wav"
                write_wav(folder / CORPUS / name, voice(pitch, pace, formants, len(rows)))
                rows.append((name, emotion, speaker))
    write_labels(folder / CORPUS, rows)
    return folder


def clip_of(speaker: str, label: int = 0) -> VoiceClip:
    sound, target, known = (
        np.zeros(SAMPLE_RATE, np.float32),
        np.eye(len(EMOTIONS), dtype=np.float32)[label],
        np.ones(7, bool),
    )
    return VoiceClip("a.wav", sound, 0.0, 1.0, target, known, speaker, "made")


@pytest.mark.parametrize(
    "names", [("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"), EMOTIONS]
)
def test_every_class_of_ravdess_is_known(names: tuple[str, ...]) -> None:
    assert {EMOTIONS[class_index(name)] for name in names} == set(EMOTIONS)


class TestReadClips:
    def test_all_that_the_table_names(self, data: Path) -> None:
        clips = read_clips(data, "ravdess")
        assert len(clips) == len(SPEAKERS) * len(MANNERS) * CLIPS
        assert {clip.person for clip in clips} == {f"ravdess/{name}" for name in SPEAKERS}
        assert {EMOTIONS[clip.label] for clip in clips} == {"anger", "sadness"}
        assert clips[0].file == "Actor_2/angry-0.wav"
        for clip in clips:
            assert clip.known.all()
            assert clip.sound.dtype == np.float32
            assert len(clip.sound) == round(1.4 * SAMPLE_RATE)
            assert 0.0 <= clip.start <= 0.6
            assert 0.9 < clip.end <= 1.4 + 1e-6

    def test_several_corpora_have_people_and_classes_of_their_own(self, data: Path, tmp_path: Path) -> None:
        for name in ("ravdess", "nemo"):
            shutil.copytree(data / CORPUS, tmp_path / "speech_emotion" / name)
        one, two = (read_clips(tmp_path, name) for name in ("ravdess", "nemo"))
        both = read_clips(tmp_path, "ravdess, nemo")
        assert [clip.person for clip in both] == [clip.person for clip in (*one, *two)]
        assert not {clip.person for clip in one} & {clip.person for clip in two}
        assert [EMOTIONS[n] for n in np.flatnonzero(~two[0].known)] == ["disgust"]

    def test_bounds_of_the_speech(self, tmp_path: Path) -> None:
        """As the live graph has them, at another rate and in stereo."""
        rate = 48000
        sound = signal.resample_poly(voice(150, 4, (600, 1700), 0), 3, 1).astype(np.float32)
        noise = np.random.default_rng(0).normal(0, 1e-4, 2 * rate).astype(np.float32)
        write_flac(tmp_path / CORPUS / "a.flac", np.concatenate([noise, sound, noise]), rate)
        write_labels(tmp_path / CORPUS, [("a.flac", "calm", "1")])
        (clip,) = read_clips(tmp_path, "ravdess")
        assert len(clip.sound) == pytest.approx(5.4 * SAMPLE_RATE, abs=2)
        assert clip.start == pytest.approx(2.25, abs=0.25)
        assert clip.end == pytest.approx(3.15, abs=0.25)
        assert EMOTIONS[clip.label] == "neutral"

    def test_without_speech_the_loud_part_counts(self, tmp_path: Path) -> None:
        sound = np.zeros(2 * SAMPLE_RATE, np.float32)
        sound[16000:19000] = np.random.default_rng(0).normal(0, 1e-3, 3000)
        write_wav(tmp_path / CORPUS / "a.wav", sound)
        write_labels(tmp_path / CORPUS, [("a.wav", "fearful", "1")])
        (clip,) = read_clips(tmp_path, "ravdess")
        assert clip.start == pytest.approx(1.0, abs=0.05)
        assert len(clip.cut()) >= 0.3 * SAMPLE_RATE
        assert as_speech(clip.cut(), SAMPLE_RATE) is not None

    @pytest.mark.parametrize(
        "sound", [np.zeros(SAMPLE_RATE, np.float32), 0.1 * np.ones(100, np.float32), np.zeros(0, np.float32)]
    )
    def test_files_without_sound_are_named(self, tmp_path: Path, sound: FloatArray) -> None:
        write_wav(tmp_path / CORPUS / "a.wav", sound)
        write_labels(tmp_path / CORPUS, [("a.wav", "sad", "1")])
        with pytest.raises(ValueError, match=r"a\.wav is silent or shorter than 0\.3 s: take it out of the table"):
            read_clips(tmp_path, "ravdess")

    def test_images_without_sound_are_named(self, tmp_path: Path) -> None:
        write_labels(tmp_path / CORPUS, [("a.mp4", "sad", "1")])
        with av.open(str(tmp_path / CORPUS / "a.mp4"), "w") as out:
            stream = out.add_stream("mpeg4", rate=10, width=32, height=32, pix_fmt="yuv420p")
            for _ in range(5):
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="bgr24")))
            out.mux(stream.encode(None))
        with pytest.raises(ValueError, match=r"a\.mp4 is silent"):
            read_clips(tmp_path, "ravdess")

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"labels\.csv"):
            read_clips(tmp_path, "ravdess")
        write_labels(tmp_path / CORPUS, [("nowhere.wav", "sad", "1")])
        with pytest.raises(SourceError, match=r"nowhere\.wav: there is no such file"):
            read_clips(tmp_path, "ravdess")

    def test_a_corpus_of_something_else(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"there is no corpus 'nobody'; corpora are: .*ravdess"):
            read_clips(tmp_path, "nobody")


class TestCut:
    @pytest.fixture
    def clip(self) -> VoiceClip:
        return replace(clip_of("1"), sound=np.arange(3 * SAMPLE_RATE, dtype=np.float32), start=1.0, end=2.0)

    @pytest.mark.parametrize(
        ("before", "after", "first", "last"),
        [(0.0, 0.0, 1.0, 2.0), (0.25, 0.5, 0.75, 2.5), (-0.1, -0.1, 1.1, 1.9), (5.0, 5.0, 0.0, 3.0)],
    )
    def test_the_speech_and_what_is_around(
        self, clip: VoiceClip, before: float, after: float, first: float, last: float
    ) -> None:
        cut = clip.cut(before, after)
        assert (cut[0], cut[-1] + 1) == (first * SAMPLE_RATE, last * SAMPLE_RATE)

    def test_it_is_never_shorter_than_0_3_s(self, clip: VoiceClip) -> None:
        assert len(clip.cut(-0.5, -0.5)) == round(0.3 * SAMPLE_RATE)


class TestFolds:
    @given(
        speakers=st.lists(st.integers(1, 99).map(str), min_size=2, max_size=12, unique=True),
        data=st.data(),
    )
    @settings(max_examples=40, deadline=None)
    def test_each_speaker_is_in_one_fold(self, speakers: list[str], data: st.DataObject) -> None:
        folds = data.draw(st.integers(2, len(speakers)))
        said = data.draw(st.lists(st.sampled_from(speakers), max_size=20)) + speakers
        clips = [clip_of(name) for name in said]
        fold = fold_of(clips, folds)
        assert fold.shape == (len(clips),)
        assert set(fold.tolist()) == set(range(folds))
        members = [
            {clip.speaker for clip, mine in zip(clips, fold == number, strict=True) if mine} for number in range(folds)
        ]
        assert sum(len(names) for names in members) == len(speakers)  # disjoint
        assert max(map(len, members)) - min(map(len, members)) <= 1
        # Blocks in the order of the numbers, however the clips are ordered.
        assert [name for names in members for name in sorted(names, key=int)] == sorted(speakers, key=int)

    @pytest.mark.parametrize("folds", [-1, 0, 1, 4])
    def test_impossible_numbers_are_refused(self, folds: int) -> None:
        clips = [clip_of(name) for name in ("1", "2", "3", "1")]
        with pytest.raises(ValueError, match=rf"3 speakers cannot be divided into {folds} folds: give 2 to 3"):
            fold_of(clips, folds)


def test_a_batch_is_padded() -> None:
    rng = np.random.default_rng(0)
    sounds = [(scale * rng.standard_normal(n)).astype(np.float32) for n, scale in ((500, 0.01), (800, 10.0))]
    batch, length = pad(sounds)
    assert batch.shape == (2, 800)
    assert length.tolist() == [500, 800]
    assert not batch[0, 500:].any()
    for row, sound in zip(batch, sounds, strict=True):
        heard = row[: len(sound)]
        assert heard.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)
        torch.testing.assert_close(heard, torch.from_numpy(sound / sound.std()), rtol=1e-3, atol=1e-4)


class TestTargets:
    """What is wanted, and of which classes."""

    def test_a_corpus_says_nothing_about_a_class_that_it_does_not_have(self) -> None:
        has = {"a": np.isin(np.arange(7), (0, 1)), "b": np.isin(np.arange(7), (0, 2))}
        said = (("a", 0), ("a", 1), ("b", 0), ("b", 2))
        clips = [replace(clip_of("1", label), corpus=corpus, known=has[corpus]) for corpus, label in said]
        targets = Targets.of(clips)
        assert targets.known.int().tolist() == [[1, 1, 0, 0, 0, 0, 0]] * 2 + [[1, 0, 1, 0, 0, 0, 0]] * 2
        logits = torch.zeros(4, 7, requires_grad=True)
        targets.loss(logits, 0.1).backward()
        assert logits.grad is not None
        assert (logits.grad != 0).tolist() == targets.known.tolist()
        assert (logits.grad.argmin(dim=1) == torch.tensor([0, 1, 0, 2])).all()  # downhill is towards the wanted class

    def test_all_classes_count_the_same(self) -> None:
        targets = Targets.of([clip_of("1", label) for label in (0, 0, 0, 1)])
        rare, usual = targets.wanted.sum(dim=0)[:2].tolist()
        assert rare == pytest.approx(usual)
        assert rare > 0

    def test_it_is_cross_entropy(self) -> None:
        logits = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
        targets = Targets.of([clip_of("1", label) for label in range(7)])
        expected = nn.functional.cross_entropy(logits, torch.arange(7), label_smoothing=0.1)
        torch.testing.assert_close(targets.loss(logits, 0.1), expected)
        everything = targets.and_nothing(2)
        flat = -torch.log_softmax(torch.zeros(1, 7), dim=1).mean()
        torch.testing.assert_close(everything[7:].loss(torch.zeros(2, 7)), flat)
        mixed = targets.mixed(0.25, torch.arange(7).flip(0))
        assert mixed.wanted[0, [0, 6]].tolist() == pytest.approx([0.25, 0.75])


@pytest.fixture(scope="module")
def network() -> VoiceNetwork:
    torch.manual_seed(0)
    return VoiceNetwork(VoiceNetworkConfig(7, members=2, width=4, summary=8, hidden=8)).eval()


class TestJudge:
    def test_probabilities(self, network: VoiceNetwork) -> None:
        sounds = [voice(*MANNERS[name], SPEAKERS["2"], 0) for name in MANNERS]
        said = predict(network, 0, sounds)
        assert said.shape == (2, len(EMOTIONS))
        np.testing.assert_allclose(said.sum(axis=1), 1.0, atol=1e-6)
        np.testing.assert_allclose(predict(network, 0, [0.01 * sound for sound in sounds]), said, atol=1e-4)
        assert np.abs(predict(network, 1, sounds) - said).max() > 1e-3

    def test_silence_is_refused(self, network: VoiceNetwork) -> None:
        with pytest.raises(ValueError, match="silent: take it out of its table"):
            predict(network, 0, [np.zeros(SAMPLE_RATE, np.float32)])


def train(data: Path, out: Path, options: Mapping[str, int] = {}, report: Path | None = None) -> Scores:
    """A training with small networks and few steps."""
    with pytest.MonkeyPatch.context() as patch:
        small = partial(VoiceNetworkConfig, width=4, summary=16, hidden=16)
        patch.setattr(voice_encoder, "VoiceNetworkConfig", small)
        for name, value in {"COPIES": 1, "PROSODY_OTHERS": 8, "PROSODY_CLIPS": 16}.items():
            patch.setattr(voice_encoder, name, value)
        patch.setattr(voice_augmentation, "MACHINES", 2)
        seed = options.get("seed", 0)
        recipe = replace(SHORT, **{name: value for name, value in options.items() if name != "seed"})
        return train_voice_encoder(data, out, recipe, seed=seed, progress=False, report=report)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    out = tmp_path_factory.mktemp("trained") / "new/weights"
    return out, train(data, out, report=out.parent / "page/report.html")


@needs_espeak
class TestTraining:
    def test_held_out_speakers_are_recognised(self, trained: tuple[Path, Scores]) -> None:
        """The two manners are easy to distinguish, if labels and clips are not mixed up on the way."""
        scores = trained[1]
        assert scores.n == len(SPEAKERS) * len(MANNERS) * CLIPS
        assert scores.unweighted_recall > 0.8

    def test_what_is_written(self, trained: tuple[Path, Scores]) -> None:
        out, scores = trained
        parts = [f"member-{number}-{part}" for number in (1, 2) for part in ("prosody", "spectrum")]
        assert sorted(path.name for path in out.iterdir()) == [*parts, "model.json", "model.safetensors"]
        assert not list(out.rglob("checkpoint*"))
        written = json.loads((out / "model.json").read_text(encoding="utf-8"))
        assert (written["name"], written["labels"]) == (NAME, list(EMOTIONS))
        training = written["training"]
        assert training["unheard_speakers"] == [["ravdess/2", "ravdess/9"], ["ravdess/10", "ravdess/11"]]
        assert (training["epochs"], training["seed"]) == (2, 0)
        figures = training["each_member_on_speakers_it_never_heard"]
        assert figures["unweighted_recall"] == pytest.approx(scores.unweighted_recall, abs=1e-4)
        assert figures["accuracy"] == pytest.approx(scores.accuracy, abs=1e-4)

    def test_the_encoder_says_what_was_scored(self, data: Path, trained: tuple[Path, Scores]) -> None:
        out, scores = trained
        encoder = AudioEncoder(str(out))
        assert encoder.name == NAME
        clips = read_clips(data, "ravdess")
        right = 0
        for clip in clips:
            (member,) = (
                number for number, names in enumerate(encoder.training["unheard_speakers"]) if clip.person in names
            )
            speech = as_speech(clip.cut(), SAMPLE_RATE)
            assert speech is not None
            said = torch.from_numpy(encoder.encode_members(speech)[member])
            np.testing.assert_allclose(
                said.softmax(dim=0), predict(encoder.network, member, [clip.cut()])[0], atol=1e-3
            )
            right += int(said.argmax()) == clip.label
        assert right / len(clips) == pytest.approx(scores.accuracy, abs=0.05)  # half precision

    def test_the_report(self, trained: tuple[Path, Scores]) -> None:
        page = (trained[0].parent / "page/report.html").read_text(encoding="utf-8")
        assert "Voice encoder on speakers that it never heard" in page
        assert "24 clips, 2 folds over 4 speakers" in page

    def test_an_interrupted_training_goes_on(
        self, data: Path, trained: tuple[Path, Scores], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is finished is not trained again, and the result is that of a training without interruption."""
        fit, titles = voice_encoder.fit, []

        def stop(task: object, schedule: VoiceRecipe, folder: Path, title: str, **options: object) -> object:
            titles.append(title)
            if len(titles) == 3:
                raise KeyboardInterrupt
            return fit(task, schedule, folder, title, **options)  # type: ignore[arg-type]

        with monkeypatch.context() as patch:
            patch.setattr(voice_encoder, "fit", stop)
            with pytest.raises(KeyboardInterrupt):
                train(data, tmp_path)
        assert titles == ["spectrum, member 1 of 2", "prosody, member 1 of 2", "spectrum, member 2 of 2"]
        log = tmp_path / "member-1-spectrum/log.csv"
        before = log.read_bytes()
        train(data, tmp_path)
        assert log.read_bytes() == before
        assert (tmp_path / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()

    def test_members_of_another_training_are_not_taken(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(voice_encoder.ProsodyTask, "__init__", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train(data, tmp_path)
        trainings: tuple[dict[str, int], ...] = ({"seed": 1}, {"epochs": 3}, {"folds": 3})
        for options in trainings:
            with pytest.raises(TrainingError, match=r"is of another training \(its settings are others\): delete it"):
                train(data, tmp_path, options)

    def test_a_person_and_a_corpus_are_left_out(self, data: Path, tmp_path: Path) -> None:
        other = tmp_path / "data/speech_emotion"
        shutil.copytree(data / CORPUS, other / "ravdess")
        shutil.copytree(data / CORPUS, other / "emovo")
        recipe = replace(SHORT, corpora="ravdess,emovo")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                voice_encoder, "VoiceNetworkConfig", partial(VoiceNetworkConfig, width=4, summary=8, hidden=8)
            )
            for name, value in {"COPIES": 1, "PROSODY_OTHERS": 8, "PROSODY_CLIPS": 16}.items():
                patch.setattr(voice_encoder, name, value)
            patch.setattr(voice_augmentation, "MACHINES", 2)
            heard: list[set[str]] = []
            task = voice_encoder.SpectrumTask

            def listen(recipe: VoiceRecipe, network: Any, log_mel: Any, clips: list[VoiceClip], rng: Any) -> Any:
                heard.append({clip.person for clip in clips})
                return task(recipe, network, log_mel, clips, rng)

            patch.setattr(voice_encoder, "SpectrumTask", listen)
            one = leave_out(tmp_path / "data", tmp_path / "a", recipe, "emovo", progress=False)
            two = leave_out(tmp_path / "data", tmp_path / "b", recipe, "ravdess/9", progress=False)
            for wrong in ("nobody/1", "ravdess/99"):
                with pytest.raises((ValueError, OSError)):
                    leave_out(tmp_path / "data", tmp_path / "c", recipe, wrong, progress=False)
        everybody = {f"{corpus}/{name}" for corpus in ("ravdess", "emovo") for name in SPEAKERS}
        assert heard == [{f"ravdess/{name}" for name in SPEAKERS}, everybody - {"ravdess/9"}]
        assert (one.n, two.n) == (len(SPEAKERS) * 2 * CLIPS, 2 * CLIPS)
        with np.load(tmp_path / "b" / "left-out.npz") as kept:
            assert kept["probabilities"].shape == (two.n, 7)
        assert len(read_log(tmp_path / "a/member-1-spectrum/log.csv")["train_loss"]) == 2

    def test_too_many_folds_are_refused_at_once(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="4 speakers cannot be divided into 5 folds"):
            train(data, tmp_path / "out", {"folds": 5})
        assert not (tmp_path / "out").exists()
