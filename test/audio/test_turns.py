"""The stage ``turns`` while the robot speaks: the only clock that its message has is that of the recording."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import synctva_ros.demo
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, EndedBy, EndOfStream, RobotSpeaking, Utterance
from synctva_ros.sources.media import MediaFile
from synctva_ros.street import turns
from synctva_ros.street.turns import STANDS_STILL, TurnsStage

DEMO = Path(synctva_ros.demo.__file__).parent
FIRST, SECOND = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"][:2]
CHUNK = 0.03
#: When recordings were made [ns]: at zero, decades ago and decades from now.
ORIGINS = (0, 300_000_000 * NANOSECONDS, 4_000_000_000 * NANOSECONDS)


@pytest.fixture(scope="module")
def sound():
    """The first two turns of the demo dialogue, mono at 16 kHz."""
    items = list(MediaFile(DEMO / "dialogue.flac", video_rate=0.0).play(0))
    return np.concatenate([item.samples for item in items])[: round(8.0 * SAMPLE_RATE)]


class Room:
    """A stage in a room where time passes as the recording is played."""

    def __init__(self, monkeypatch, **config):
        self.now = 1000.0  # on the steady clock [s]
        monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=lambda: self.now))
        log = SimpleNamespace(info=pytest.fail, warning=pytest.fail, error=pytest.fail)
        self.stage = TurnsStage(Turns(provisional_interval=0.0, **config), log)

    def play(self, samples, origin, stream_id="m1", robot=()):
        """Play a recording; ``robot`` says when it begins (True) and ends to speak: ``[(seconds, speaking)]``."""
        size = round(CHUNK * SAMPLE_RATE)
        robot = list(robot)
        found = []
        for number, first in enumerate(range(0, len(samples), size)):
            begun, passed = first / SAMPLE_RATE, len(samples[first : first + size]) / SAMPLE_RATE
            # A chunk comes when it is complete.
            while robot and robot[0][0] < begun + passed:
                seconds, speaking = robot.pop(0)
                self.now += seconds - begun
                found += self.stage.take(RobotSpeaking(speaking))
                self.now -= seconds - begun
            self.now += passed
            stamp = origin + round(first * NANOSECONDS / SAMPLE_RATE)
            found += self.stage.take(AudioChunk(stream_id, number, stamp, SAMPLE_RATE, samples[first : first + size]))
        return [event for event in found if isinstance(event, Utterance) and event.is_final]

    @property
    def deaf(self):
        """For how long it has been [s]."""
        return self.stage.details()["gated_seconds"]


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("shift", [0.001, 0.014, 0.029])
def test_the_gate_closes_and_opens_at_the_samples_of_its_moment(monkeypatch, sound, origin, shift):
    """Wherever in a chunk the message comes."""
    room = Room(monkeypatch, gate_release=0.3)
    closed, opened = FIRST["start"] + 0.99 + shift, FIRST["start"] + 1.59 + shift
    before, after, second = room.play(sound, origin, robot=[(closed, True), (opened, False)])
    assert before.ended_by is EndedBy.GATED
    assert before.stream_start == pytest.approx(FIRST["start"], abs=0.03)
    heard = before.samples_start + round(len(before.samples) * NANOSECONDS / SAMPLE_RATE)
    assert (heard - origin) / NANOSECONDS == pytest.approx(closed, abs=0.01)
    assert (after.samples_start - origin) / NANOSECONDS >= opened + 0.3 - 1e-6
    assert after.stream_end == pytest.approx(FIRST["end"], abs=0.03)
    assert room.deaf == pytest.approx(opened + 0.3 - closed, abs=0.021)
    assert second.stream_start == pytest.approx(SECOND["start"], abs=0.03)


@pytest.mark.parametrize("origin", ORIGINS)
def test_the_robot_that_spoke_before_there_was_sound_is_not_heard(monkeypatch, sound, origin):
    room = Room(monkeypatch, gate_release=0.3)
    assert list(room.stage.take(RobotSpeaking(True))) == []
    (second,) = room.play(sound, origin, robot=[(4.0, False)])
    assert second.stream_start == pytest.approx(SECOND["start"], abs=0.03)
    assert room.deaf == pytest.approx(4.3, abs=0.021)


def test_the_robot_that_fell_silent_before_there_was_sound_hides_nothing(monkeypatch, sound):
    room = Room(monkeypatch, gate_release=5.0)
    for speaking in (True, False):
        assert list(room.stage.take(RobotSpeaking(speaking))) == []
    assert len(room.play(sound, 0)) == 2
    assert room.deaf == 0.0


@pytest.mark.parametrize(("earlier", "later"), [(ORIGINS[1], ORIGINS[0]), (ORIGINS[1], ORIGINS[2]), (0, 0)])
def test_a_new_stream_on_another_clock_does_not_open_the_gate(monkeypatch, sound, earlier, later):
    room = Room(monkeypatch, gate_release=0.3)
    assert len(room.play(sound, earlier, robot=[(7.5, True)])) == 2
    assert room.play(sound, later, "m2") == []
    assert room.deaf == pytest.approx(8.5, abs=0.021)
    # Once it has fallen silent, that stream is heard, on its own clock.
    (second,) = room.play(sound, later + 8 * NANOSECONDS, "m3", robot=[(4.0, False)])
    assert second.stream_start == pytest.approx(SECOND["start"], abs=0.03)
    assert room.deaf == pytest.approx(8.5 + 4.3, abs=0.03)


@pytest.mark.parametrize(("earlier", "later"), [(ORIGINS[1], ORIGINS[0]), (ORIGINS[1], ORIGINS[2])])
def test_a_release_of_another_clock_is_over(monkeypatch, sound, earlier, later):
    room = Room(monkeypatch, gate_release=5.0)
    room.play(sound, earlier, robot=[(7.4, True), (7.8, False)])
    deaf = room.deaf
    assert len(room.play(sound, later, "m2")) == 2
    assert room.deaf == deaf


def test_a_source_that_stands_still_does_not_tell_the_time(monkeypatch, sound):
    room = Room(monkeypatch, gate_release=0.0)
    half = round(4.2 * SAMPLE_RATE)
    room.play(sound[:half], 0)
    room.now += 3600.0  # the recording was halted
    list(room.stage.take(RobotSpeaking(True)))
    size = round(CHUNK * SAMPLE_RATE)
    for first in range(half, len(sound), size):
        stamp = round(first * NANOSECONDS / SAMPLE_RATE)
        chunk = AudioChunk("m1", first // size, stamp, SAMPLE_RATE, sound[first : first + size])
        assert not any(isinstance(event, Utterance) for event in room.stage.take(chunk))
    assert room.deaf == pytest.approx(8.0 - 4.2 - STANDS_STILL, abs=0.021)


def test_the_end_of_a_stream_is_said_behind_its_last_utterance(monkeypatch, sound):
    room = Room(monkeypatch)
    cut = sound[: round((FIRST["end"] + 0.1) * SAMPLE_RATE)]
    assert room.play(cut, 0) == []
    nothing = np.zeros((0, 1), np.float32)
    *_, utterance, end = room.stage.take(AudioChunk("m1", 122, 0, SAMPLE_RATE, nothing, end_of_stream=True))
    assert isinstance(utterance, Utterance)
    assert utterance.is_final
    assert utterance.ended_by is EndedBy.END_OF_STREAM
    assert end == EndOfStream("m1")


def lacks(room):
    return {key: (state.level, state.sentence[:32]) for key, state in room.stage.lacks(room.now).items()}


def test_what_is_missing_in_the_sound_is_told_as_long_as_it_is(monkeypatch, sound):
    room = Room(monkeypatch)
    room.stage._endpointer._warn = lambda sentence: None  # a muted microphone is said there once, too
    room.now += 1000.0
    assert lacks(room) == {}  # nobody has promised any sound
    room.play(sound, 0)
    assert lacks(room) == {}
    room.now += 5.1
    assert lacks(room) == {"sound": (1, "no sound has come for 5 s: is th")}
    room.play(sound, 0, "m2")
    assert lacks(room) == {}
    room.play(np.zeros((6 * SAMPLE_RATE, 1), np.float32), 0, "m3")
    assert lacks(room) == {"sound": (1, "every sample is 0: is the microp")}
    room.play(sound, 0, "m4")
    assert lacks(room) == {}
    for event in (AudioChunk("m4", 10_000, 0, SAMPLE_RATE, np.zeros((0, 1), np.float32), end_of_stream=True),):
        list(room.stage.take(event))
    room.now += 1000.0
    assert lacks(room) == {}  # the recording has ended


def test_long_silence_is_worth_a_line_but_no_trouble(monkeypatch, sound):
    room = Room(monkeypatch)
    hum = np.random.default_rng(0).normal(0, 1e-4, (SAMPLE_RATE, 1)).astype(np.float32)
    room.play(hum, 0)
    room.now += 299.0
    room.stage._heard = (room.stage._heard[0], room.now)
    assert lacks(room) == {}
    room.now += 2.0
    room.stage._heard = (room.stage._heard[0], room.now)
    assert lacks(room) == {"speech": (0, "nobody has spoken for 300 s")}
    room.play(sound, 0, "m2")
    assert lacks(room) == {}


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [(0.03, "the last utterance was very quie"), (1.0, None), (50.0, "the last utterance was clipped: ")],
)
def test_speech_that_is_too_quiet_or_clipped(monkeypatch, sound, gain, sentence):
    room = Room(monkeypatch)
    room.stage._endpointer._warn = lambda said: None
    assert room.play(np.clip(gain * sound, -1.0, 1.0), 0)
    assert lacks(room) == ({} if sentence is None else {"level": (1, sentence)})
    room.play(sound, 0, "m2")
    assert lacks(room) == {}


# --- whose voice it is


class Pitches:
    """Tells voices apart by the words of the truth: the vector of an utterance is that of the turn that it is of."""

    modality, name, width, same = "speaker", "pitches-1", 8, 0.3

    def __init__(self):
        self.lengths = []

    def encode(self, samples, sample_rate):
        self.lengths.append(len(samples) / sample_rate)
        known = [turn["end"] - turn["start"] for turn in (FIRST, SECOND)]
        return np.eye(8, dtype=np.float32)[int(np.argmin(np.abs(np.array(known) - self.lengths[-1])))]


def heard(sound, encoder, log=None, **config):
    log = log or SimpleNamespace(info=pytest.fail, warning=pytest.fail, error=pytest.fail)
    stage = TurnsStage(Turns(**config), log, encoder)
    found = []
    for number, first in enumerate(range(0, len(sound), 480)):
        stamp = first * NANOSECONDS // SAMPLE_RATE
        found += stage.take(AudioChunk("m1", number, stamp, SAMPLE_RATE, sound[first : first + 480]))
    return [event for event in [*found, *stage.flush()] if isinstance(event, Utterance)], stage


def test_each_voice_has_an_id_that_is_known_when_the_pause_begins(sound):
    encoder = Pitches()
    told, stage = heard(np.concatenate([sound, sound]), encoder)
    final = [one for one in told if one.is_final]
    assert [one.speaker_id for one in final] == ["v1", "v2", "v1", "v2"]
    for one in final:
        (ahead,) = (other for other in told if not other.is_final and other.is_same_input(one))
        assert ahead.speaker_id == one.speaker_id
    assert len(encoder.lengths) == 3 * 4  # once an utterance and its halves, inside the pause
    assert {one.speaker_id for one in told if one.ended_by is EndedBy.SPEAKING} == {""}
    stage.speakers.enroll("v2", "anna")
    more, _ = heard(sound, encoder)
    assert [one.person_id for one in more if one.is_final] == ["", ""]  # another stage knows nobody
    assert [voice.name for voice in stage.speakers.voices] == ["", "anna"]


def test_who_wears_the_microphone_is_not_asked_for(sound):
    encoder = Pitches()
    told, _ = heard(sound, encoder, speaker_id="ben")
    assert {one.speaker_id for one in told} == {"ben"}
    assert encoder.lengths == []
