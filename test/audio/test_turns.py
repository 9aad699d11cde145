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
