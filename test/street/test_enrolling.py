"""The end-pointer as a stage: whose voice an utterance is, who is enrolled, and what is kept of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synctva_ros.config import Turns
from synctva_ros.events import AudioChunk, FloatArray, Utterance
from synctva_ros.street.turns import TurnsStage

RATE = 16000
LOW, HIGH = 110.0, 220.0


def voice(pitch: float, seconds: float) -> FloatArray:
    """A buzz that webrtcvad takes for a voice."""
    time = np.arange(round(seconds * RATE)) / RATE
    sway = 1 + 0.5 * np.sin(2 * np.pi * 4 * time)
    harmonics = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20))
    return np.asarray(0.1 * sway * harmonics, np.float32)


class ByPitch:
    """Tells voices apart by their pitch alone."""

    modality, name, width, same = "speaker", "pitch", 2, 0.3

    def __init__(self, weights: str = "") -> None:
        self.asked = 0

    def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        self.asked += 1
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
        first = spectrum[: round(160 * len(samples) / sample_rate)].max() > 0.2 * spectrum.max()
        return np.array([1.0, 0.0] if first else [0.0, 1.0], np.float32)


class Ears:
    """A stage, and sound for it."""

    def __init__(self, **config: Any) -> None:
        self.encoder = ByPitch()
        self.stage = TurnsStage(
            Turns(detector="webrtc", segmenter="none", provisional_interval=0.2, **config),
            logging.getLogger("test"),
            self.encoder,
        )
        self.sequence = 0

    def hear(self, sound: FloatArray, then: Callable[[], None] = lambda: None) -> list[Utterance]:
        """The final utterances; ``then`` is called in the middle."""
        given: list[Any] = []
        for first in range(0, len(sound), 320):
            if first == len(sound) // 640 * 320:
                then()
            chunk = AudioChunk(
                stamp=1_000_000_000 + self.sequence * 20_000_000,
                stream_id="s",
                sequence=self.sequence,
                sample_rate=RATE,
                samples=sound[first : first + 320, None],
                frame_id="mic",
            )
            self.sequence += 1
            given += self.stage.take(chunk)
        return [each for each in given if isinstance(each, Utterance) and each.is_final]

    def say(self, pitch: float, seconds: float = 1.6, then: Callable[[], None] = lambda: None) -> Utterance:
        """One utterance, with silence around it."""
        (utterance,) = self.hear(
            np.concatenate([np.zeros(RATE // 2, np.float32), voice(pitch, seconds), np.zeros(RATE, np.float32)]), then
        )
        return utterance


def test_voices_are_told_apart_and_known_again() -> None:
    ears = Ears()
    assert [ears.say(pitch).speaker_id for pitch in (LOW, HIGH, LOW)] == ["v1", "v2", "v1"]


def test_an_utterance_is_encoded_once_in_its_pause() -> None:
    ears = Ears()
    ears.say(LOW)
    assert ears.encoder.asked == 3  # itself and its halves


@pytest.mark.parametrize("by", ["voice", "utterance", "last"])
def test_who_spoke_is_given_a_name(by: str) -> None:
    ears = Ears()
    first, second = ears.say(LOW), ears.say(HIGH)
    if by == "voice":
        voice_named = ears.stage.enroll("anna", speaker_id=first.speaker_id)
    elif by == "utterance":
        voice_named = ears.stage.enroll("anna", utterance_id=first.utterance_id)
    else:
        voice_named = ears.stage.enroll("anna")
    assert voice_named is not None
    assert voice_named.speaker_id == (second if by == "last" else first).speaker_id
    named, other = (HIGH, LOW) if by == "last" else (LOW, HIGH)
    assert ears.say(named).person_id == "anna"
    assert ears.say(other).person_id == ""


def test_who_is_speaking_is_given_a_name_when_the_utterance_is_over() -> None:
    ears = Ears()
    ears.say(LOW)
    answers: list[Any] = []
    utterance = ears.say(HIGH, 2.0, lambda: answers.append(ears.stage.enroll("ben")))
    assert answers == [None]
    assert (utterance.speaker_id, utterance.person_id) == ("v2", "ben")
    assert ears.say(LOW).person_id == ""


def test_who_is_speaking_too_shortly_is_told(caplog: pytest.LogCaptureFixture) -> None:
    ears = Ears()
    utterance = ears.say(HIGH, 0.5, lambda: ears.stage.enroll("ben") and None)
    assert (utterance.speaker_id, utterance.person_id) == ("", "")
    assert "ben is not enrolled: whose voice" in caplog.text
    assert ears.say(HIGH).person_id == ""  # not whoever speaks next


def test_who_says_next_to_nothing_leaves_no_name_for_the_next(caplog: pytest.LogCaptureFixture) -> None:
    ears = Ears(min_duration=1.0)
    moment = np.concatenate([np.zeros(RATE // 2, np.float32), voice(LOW, 0.5), np.zeros(RATE, np.float32)])
    assert ears.hear(moment[: RATE // 2 + RATE // 4]) == []
    assert ears.stage.enroll("ben") is None
    assert ears.hear(moment[RATE // 2 + RATE // 4 :]) == []  # too short for an utterance
    assert "ben is not enrolled: what was being said was no utterance" in caplog.text
    assert ears.say(HIGH).person_id == ""


def test_what_cannot_be_enrolled_or_forgotten_is_told() -> None:
    ears = Ears()
    with pytest.raises(ValueError, match="there is no utterance ''"):
        ears.stage.enroll("anna")
    ears.say(LOW)
    with pytest.raises(ValueError, match="the name is empty"):
        ears.stage.enroll("")
    with pytest.raises(ValueError, match="there is no utterance 'u9' among the newest"):
        ears.stage.enroll("anna", utterance_id="u9")
    with pytest.raises(ValueError, match="there is no voice 'v9'; those that are known: v1"):
        ears.stage.enroll("anna", speaker_id="v9")
    with pytest.raises(ValueError, match="there is no voice 'carl'"):
        ears.stage.forget("carl")
    deaf = TurnsStage(Turns(segmenter="none", speaker_encoder=""), logging.getLogger("test"))
    for ask in (lambda: deaf.enroll("anna"), deaf.forget):
        with pytest.raises(ValueError, match="voices are not told apart: set speaker_encoder"):
            ask()


def test_nothing_is_written_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ears = Ears()
    ears.say(LOW)
    ears.stage.enroll("anna")
    assert list(tmp_path.rglob("*")) == []


def test_people_of_a_file_are_known_after_a_restart_until_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "new" / "people"
    ears = Ears(people_file=str(file))
    assert not file.exists()
    ears.say(LOW)
    assert not file.exists()  # a voice without a name is kept nowhere
    ears.stage.enroll("anna")
    assert file.stat().st_mode & 0o077 == 0
    again = Ears(people_file=str(file))
    assert again.say(HIGH).person_id == ""
    assert again.say(LOW).person_id == "anna"
    again.stage.forget("anna")
    assert Ears(people_file=str(file)).say(LOW).person_id == ""


def test_a_file_of_people_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    ears = Ears(people_file=str(tmp_path / "people"))
    ears.say(LOW)
    ears.stage.enroll("anna")
    ears.encoder.name = "other"
    with pytest.raises(ValueError, match="has voices of the encoder 'pitch', not of 'other'"):
        TurnsStage(replace(ears.stage._config), logging.getLogger("test"), ears.encoder)
    for content in (b"", b"something else", b"\x08\0\0\0\0\0\0\0{}      "):
        (tmp_path / "people").write_bytes(content)
        with pytest.raises(ValueError, match="is no file of people"):
            Ears(people_file=str(tmp_path / "people"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is no file of people"):
        Ears(people_file=str(tmp_path / "folder"))


def test_the_file_is_what_it_was_when_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(people_file=str(tmp_path / "people"))
    ears.say(LOW)
    ears.stage.enroll("anna")
    before = (tmp_path / "people").read_bytes()

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    ears.say(HIGH)
    with pytest.raises(OSError, match="No space left"):
        ears.stage.enroll("ben")
    assert (tmp_path / "people").read_bytes() == before
