"""Utterances on the demo dialogue, whose true starts and ends are known, and in all that can happen to a stream."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soxr
import webrtcvad
from hypothesis import given, settings
from hypothesis import strategies as st

import synctva_ros.demo
from synctva_ros.audio.endpointer import FRAME_SECONDS, TAIL, Endpointer
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, EndedBy, Utterance
from synctva_ros.sources.media import MediaFile

DEMO = Path(synctva_ros.demo.__file__).parent
TURNS = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]
T0 = 1_700_000_000 * NANOSECONDS


@cache
def demo():
    """The demo dialogue, mono at 16 kHz."""
    items = list(MediaFile(DEMO / "dialogue.flac").play(0))
    assert {item.sample_rate for item in items} == {SAMPLE_RATE}
    return np.concatenate([item.samples for item in items])[:, 0]


def at(seconds):
    return round(seconds * SAMPLE_RATE)


def turn(number, margin=0.3):
    """One turn of the dialogue with some silence around it."""
    return demo()[at(TURNS[number]["start"] - margin) : at(TURNS[number]["end"] + margin)]


def silence(seconds):
    return np.random.default_rng(1).normal(0.0, 2e-4, at(seconds)).astype(np.float32)


def chunks(samples, rate=SAMPLE_RATE, size=None, stream_id="m1", origin=T0, end=True):
    """Chunks with true stamps and, at the end, an empty one that says so."""
    samples = np.asarray(samples, np.float32)
    samples = samples[:, None] if samples.ndim == 1 else samples
    size = size or round(0.03 * rate)
    firsts = range(0, len(samples), size)
    for number, first in enumerate(firsts):
        stamp = origin + round(first * NANOSECONDS / rate)
        yield AudioChunk(stream_id, number, stamp, rate, samples[first : first + size])
    if end:
        stamp = origin + round(len(samples) * NANOSECONDS / rate)
        yield AudioChunk(stream_id, len(firsts), stamp, rate, samples[:0], end_of_stream=True)


def find(items, endpointer=None, **config):
    """The utterances that are over."""
    return [found for found in follow(items, endpointer, **config) if found.is_final]


def follow(items, endpointer=None, **config):
    """What is given out over time: partial utterances and those that are over, in order."""
    endpointer = endpointer or Endpointer(Turns(**config))
    return [utterance for item in items for utterance in endpointer.push(item)]


def errors(utterances):
    """How far starts and ends are off the script [s]: ``[2, turns]``."""
    assert len(utterances) == len(TURNS)
    starts = [found.stream_start - said["start"] for found, said in zip(utterances, TURNS, strict=True)]
    ends = [found.stream_end - said["end"] for found, said in zip(utterances, TURNS, strict=True)]
    return np.array([starts, ends])


# --- where speech starts and ends


def test_every_turn_of_the_demo_is_found_where_it_is():
    utterances = find(chunks(demo()))
    assert np.abs(errors(utterances)).max() < 0.03
    assert {utterance.ended_by for utterance in utterances} == {EndedBy.PAUSE}
    for utterance, said in zip(utterances, TURNS, strict=True):
        assert (utterance.start - T0) / NANOSECONDS == pytest.approx(utterance.stream_start, abs=1e-3)
        assert (utterance.end - T0) / NANOSECONDS == pytest.approx(utterance.stream_end, abs=1e-3)
        expected = demo()[at(said["start"]) : at(said["end"])]
        assert utterance.rms == pytest.approx(float(np.sqrt(np.mean(expected**2))), rel=0.05)


@pytest.mark.parametrize("gain", [0.5, 0.1])
def test_a_quiet_speaker_is_found_too(gain):
    # At a tenth, the last 0.1 s of a turn that dies away are below min_level.
    assert np.abs(errors(find(chunks(demo() * gain)))).max() < (0.03 if gain == 0.5 else 0.12)


def test_noise_20_db_below_speech_hides_only_what_is_below_it():
    speech = np.concatenate([demo()[at(said["start"]) : at(said["end"])] for said in TURNS])
    level = np.sqrt(np.mean(speech**2)) * 10 ** (-20 / 20)
    noisy = demo() + np.random.default_rng(0).normal(0.0, level, len(demo()))
    off = errors(find(chunks(noisy)))
    # The script's bounds are at -40 dB of the peak, so the softest 0.1 s of a turn are in the noise.
    assert np.abs(off).max() < 0.12
    assert off[1].max() < 0.03  # while webrtcvad holds on into the noise
    assert np.median(np.abs(off)) < 0.03


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_and_stereo_change_nothing(rate):
    samples = soxr.resample(demo(), SAMPLE_RATE, rate)
    assert np.abs(errors(find(chunks(np.stack([samples, samples], axis=1), rate)))).max() < 0.03


@pytest.mark.parametrize("sound", ["silence", "hum", "hiss"])
def test_silence_hum_and_hiss_are_no_utterances(sound):
    t = np.arange(at(8.0)) / SAMPLE_RATE
    samples = {
        "silence": np.zeros(len(t)),
        "hum": 0.02 * np.sin(2 * np.pi * 50 * t),
        "hiss": np.random.default_rng(0).normal(0.0, 0.01, len(t)),
    }[sound]
    assert find(chunks(samples)) == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 2000) | st.integers(1, 40), min_size=1, max_size=30))
def test_the_length_of_the_chunks_does_not_matter(sizes):
    samples = demo()[: at(8.0)]
    cuts = [0]
    while cuts[-1] < len(samples):
        size = sizes[len(cuts) % len(sizes)] if len(cuts) < 1000 else 2000  # enough tiny ones
        cuts.append(min(cuts[-1] + size, len(samples)))
    pieces = [
        AudioChunk("m1", n, T0 + round(first * NANOSECONDS / SAMPLE_RATE), SAMPLE_RATE, samples[first:last, None])
        for n, (first, last) in enumerate(pairwise(cuts))
    ]
    got, expected = find([*pieces, end_chunk(len(pieces))]), find(chunks(samples))
    assert len(got) == 2
    assert_same_utterances(got, expected, numbers=False)
    for one in got:
        # The numbers are those of the chunks with the first and with the last sample.
        begin = round((one.samples_start - T0) * SAMPLE_RATE / NANOSECONDS)
        last = begin + len(one.samples) - 1
        assert cuts[one.first_sequence] <= begin < cuts[one.first_sequence + 1]
        assert cuts[one.last_sequence] <= last < cuts[one.last_sequence + 1]


def assert_same_utterances(found, expected, *, numbers=True):
    """The same sound at the same times and for the same reasons, under whatever ids."""
    assert len(found) == len(expected)
    names = [field.name for field in fields(Utterance) if field.name not in ("utterance_id", "samples")]
    for one, other in zip(found, expected, strict=True):
        for name in names:
            if numbers or not name.endswith("_sequence"):
                assert getattr(one, name) == getattr(other, name), name
        np.testing.assert_array_equal(one.samples, other.samples)


def end_chunk(sequence, stream_id="m1"):
    return AudioChunk(stream_id, sequence, 0, SAMPLE_RATE, np.zeros((0, 1), np.float32), end_of_stream=True)


# --- what an utterance holds


def test_pre_roll_and_tail_are_there_and_speech_is_between_them():
    config = Turns(pre_roll=0.2, hangover=0.4)
    for utterance in find(chunks(demo()[: at(TURNS[3]["start"] - 0.5)]), Endpointer(config)):
        before = (utterance.start - utterance.samples_start) / NANOSECONDS
        assert before == pytest.approx(0.2, abs=0.02)
        length = utterance.stream_end - utterance.stream_start
        assert len(utterance.samples) / SAMPLE_RATE == pytest.approx(before + length + TAIL * FRAME_SECONDS, abs=0.02)
        first = at(utterance.stream_start - before)
        np.testing.assert_array_equal(utterance.samples, demo()[first : first + len(utterance.samples)])
        np.testing.assert_array_equal(utterance.speech, demo()[at(utterance.stream_start) : at(utterance.stream_end)])


def test_ids_are_unique_and_begin_with_a_letter_also_when_a_stream_is_taken_up_again():
    endpointer = Endpointer()
    samples = demo()[: at(8.0)]
    ids = [utterance.utterance_id for utterance in find(chunks(samples, end=False), endpointer)]
    endpointer.flush()  # as when the node is deactivated while the microphone goes on
    ids += [utterance.utterance_id for utterance in find(chunks(samples), endpointer)]
    ids += [utterance.utterance_id for utterance in find(chunks(samples, stream_id="m2"), endpointer)]
    assert len(ids) == len(set(ids)) == 6
    assert all(identity[0].isalpha() for identity in ids)


@pytest.mark.parametrize("first", [3, 20, 60])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_whoever_listens_late_counts_from_the_first_sample_of_the_stream_too(first, rate):
    pieces = list(chunks(soxr.resample(demo()[: at(8.0)], SAMPLE_RATE, rate), rate))
    heard, whole = find(pieces[first:]), find(pieces)
    assert len(heard) == len(whole) == 2
    assert heard[0].stream_start == pytest.approx(max(whole[0].stream_start, 0.03 * first), abs=0.05)
    assert heard[0].stream_end == pytest.approx(whole[0].stream_end, abs=0.011)
    assert heard[1].stream_start == pytest.approx(whole[1].stream_start, abs=0.011)
    for found in heard:
        assert (found.start - T0) / NANOSECONDS == pytest.approx(found.stream_start, abs=1e-3)
        assert found.first_sequence >= first
    assert heard[1].last_sequence == pytest.approx(whole[1].last_sequence, abs=1)


@pytest.mark.parametrize("before", ["hiss", "speech", "silence"])
@pytest.mark.parametrize("end", [True, False])
def test_what_was_heard_in_another_stream_does_not_matter(before, end):
    # At this level webrtcvad's model of the noise decides about the edges of speech.
    samples = demo() + np.random.default_rng(0).normal(0.0, 0.003, len(demo()))
    earlier = {
        "hiss": np.random.default_rng(0).normal(0.0, 0.1, at(6.0)),
        "speech": monologue(6.0),
        "silence": np.zeros(at(6.0)),
    }[before]
    endpointer = Endpointer()
    find(chunks(earlier, stream_id="m0", end=end), endpointer)
    first, *rest = chunks(samples)
    find([first], endpointer)
    assert_same_utterances(find(rest, endpointer), find(chunks(samples)))


def test_the_frame_is_that_of_the_source():
    endpointer = Endpointer()
    pieces = [
        replace(item, frame_id=frame)
        for stream, frame in (("m1", "head_microphone"), ("m2", "table_microphone"))
        for item in chunks(demo()[: at(8.0)], stream_id=stream, end=False)
    ]
    found = [*follow(pieces, endpointer), *endpointer.flush()]
    for stream, frame in (("m1", "head_microphone"), ("m2", "table_microphone")):
        told = [(utterance.is_final, utterance.frame_id) for utterance in found if utterance.stream_id == stream]
        assert set(told) == {(False, frame), (True, frame)}


def test_the_speaker_is_passed_on():
    assert {u.speaker_id for u in find(chunks(turn(0)), Endpointer(Turns(speaker_id="anna")))} == {"anna"}


@pytest.mark.parametrize(("gain", "clipped"), [(1.0, False), (20.0, True)])
def test_a_clipped_utterance_says_so(gain, clipped):
    warnings = []
    endpointer = Endpointer(warn=warnings.append)
    (utterance,) = find(chunks(np.clip(turn(0) * gain, -1, 1)), endpointer)
    assert utterance.clipped is clipped
    assert endpointer.counters.clipped == clipped
    assert sum("gain" in sentence for sentence in warnings) == clipped


@pytest.mark.parametrize("pause", [0.3, 0.6])
def test_the_pre_roll_does_not_reach_into_what_was_said_before(pause):
    first, second = (demo()[at(TURNS[n]["start"]) : at(TURNS[n]["end"])] for n in (0, 2))
    samples = np.concatenate([silence(1.0), first, silence(pause), second, silence(1.0)])
    before, *_, after = find(chunks(samples), hangover=0.2, pre_roll=1.0)
    end = 1.0 + len(first) / SAMPLE_RATE
    assert before.stream_end == pytest.approx(end, abs=0.03)
    assert (after.samples_start - T0) / NANOSECONDS == pytest.approx(before.stream_end, abs=1e-3)


# --- parameters that change meanwhile


def test_a_hang_over_that_changes_in_the_pause_counts_at_once():
    endpointer = Endpointer(Turns(hangover=3.0, provisional_interval=0.0))
    end = TURNS[0]["end"]
    pieces = list(chunks(np.concatenate([demo()[: at(end)], silence(2.0)]), size=160, end=False))
    assert find(pieces[: round(100 * (end + 0.8))], endpointer) == []
    endpointer.config.hangover = 1.0
    later = ((find([item], endpointer), item) for item in pieces[round(100 * (end + 0.8)) :])
    found, item = next((found, item) for found, item in later if found)
    assert (item.stamp - found[0].end) / NANOSECONDS + 0.01 == pytest.approx(1.0, abs=0.021)


def test_aggressiveness_that_changes_counts_from_the_next_frame_on(monkeypatch):
    class Detector:
        """Takes everything for speech unless it is to be at its most aggressive."""

        def set_mode(self, mode):
            self.mode = mode

        def is_speech(self, pcm, rate):
            return self.mode < 3

    monkeypatch.setattr(webrtcvad, "Vad", Detector)
    endpointer = Endpointer(Turns(detector="webrtc", aggressiveness=3))
    noise = np.random.default_rng(0).normal(0.0, 0.01, at(3.0))
    noise[at(1.0) : at(1.5)] *= 10.0
    pieces = list(chunks(noise, size=160))
    assert find(pieces[:100], endpointer) == []
    endpointer.config.aggressiveness = 0
    assert find(pieces[100:150], endpointer) == []
    assert endpointer.speaking
    endpointer.config.aggressiveness = 3
    (utterance,) = find(pieces[150:], endpointer)
    assert (utterance.stream_start, utterance.stream_end) == pytest.approx((1.0, 1.5), abs=0.021)
    assert utterance.ended_by is EndedBy.PAUSE


def test_speculation_that_is_switched_counts_from_the_next_pause_on():
    endpointer = Endpointer(Turns(speculate=False, provisional_interval=0.0))
    told = []
    for item in chunks(demo()):
        endpointer.config.speculate = TURNS[3]["start"] < (item.stamp - T0) / NANOSECONDS < TURNS[6]["start"]
        told += endpointer.push(item)
    ahead = [utterance for utterance in told if not utterance.is_final]
    assert_same_utterances([replace(utterance, is_final=True) for utterance in ahead], find(chunks(demo()))[3:6])


def test_an_interval_that_changes_counts_at_once():
    samples = monologue(6.0)
    endpointer = Endpointer(Turns(speculate=False, provisional_interval=0.0))
    told = []
    for item in chunks(samples, size=160):
        seconds = (item.stamp - T0) / NANOSECONDS
        endpointer.config.provisional_interval = 0.0 if seconds < 2.0 else 0.5 if seconds < 4.0 else 0.0
        told += [utterance.stream_end for utterance in endpointer.push(item) if not utterance.is_final]
    np.testing.assert_allclose(told, 2.0 + 0.5 * np.arange(4), atol=0.15)


def test_a_speaker_who_is_told_while_someone_speaks_is_that_of_the_utterance():
    endpointer = Endpointer(Turns(speaker_id="anna"))
    told = []
    for item in chunks(demo()[: at(8.0)]):
        if (item.stamp - T0) / NANOSECONDS > (TURNS[1]["start"] + TURNS[1]["end"]) / 2:
            endpointer.config.speaker_id = "ben"
        told += endpointer.push(item)
    assert [utterance.speaker_id for utterance in told if utterance.is_final] == ["anna", "ben"]
    speaking = [utterance.speaker_id for utterance in told if utterance.utterance_id == told[-1].utterance_id]
    assert speaking == sorted(speaking)
    assert set(speaking) == {"anna", "ben"}


# --- how utterances end


def numbered_from(first, items):
    """The same chunks with other numbers."""
    return [replace(item, sequence=first + item.sequence) for item in items]


def monologue(seconds):
    """Speech without a pause: the turns of the dialogue one after the other."""
    speech = np.concatenate([demo()[at(said["start"]) : at(said["end"])] for said in TURNS])
    assert len(speech) >= at(seconds)
    return np.concatenate([silence(0.5), speech[: at(seconds)], silence(1.0)])


@pytest.mark.parametrize("seconds", [3.1, 5.0, 12.0, 25.0])
def test_a_long_utterance_is_split_and_nothing_is_lost(seconds):
    samples = monologue(seconds)
    endpointer = Endpointer(Turns(max_duration=3.0))
    parts = find(chunks(samples), endpointer)
    assert [part.ended_by for part in parts] == [EndedBy.SPLIT] * (len(parts) - 1) + [EndedBy.PAUSE]
    assert len(parts) > seconds / 3.0
    assert endpointer.counters.split == len(parts) - 1
    assert endpointer.counters.too_short == 0
    assert parts[0].stream_start == pytest.approx(0.5, abs=0.05)
    assert parts[-1].stream_end == pytest.approx(0.5 + seconds, abs=0.15)
    for before, after in pairwise(parts):
        assert before.stream_end - before.stream_start <= 3.0 + 1e-6
        hole = samples[at(before.stream_end) : at(after.stream_start)]
        assert after.stream_start >= before.stream_end - 1e-9
        assert len(hole) == 0 or np.abs(hole).max() < 0.02  # at most a breath
    # All of the samples, pre-roll and tail included, follow one another without overlap.
    for before, after in pairwise(parts):
        end = before.samples_start + round(len(before.samples) * NANOSECONDS / SAMPLE_RATE)
        assert after.samples_start == pytest.approx(end, abs=1000)


def test_a_split_is_at_a_quiet_place():
    samples = monologue(6.0)
    (first, *_) = find(chunks(samples), max_duration=3.0)
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    level = np.convolve(np.sqrt(np.mean(frames**2, axis=1)), np.ones(5) / 5, mode="same")
    cut = round(first.stream_end * 100)
    assert level[cut] < np.median(level[cut - 100 : cut + 100]) / 4


def test_silence_after_speech_does_not_count_as_its_length():
    (utterance,) = find(chunks(monologue(2.9)), max_duration=3.1)
    assert utterance.ended_by is EndedBy.PAUSE


@pytest.mark.parametrize(("every", "goes_on"), [(2, True), (8, False)])
def test_a_flicker_of_the_detector_does_not_keep_an_utterance_going(monkeypatch, every, goes_on):
    class Detector:
        """After a second says yes for half a second, then to one frame in ``every``."""

        frame = 0

        def set_mode(self, mode):
            pass

        def is_speech(self, pcm, rate):
            self.frame += 1
            return 100 < self.frame <= 150 or (self.frame > 150 and self.frame % every == 0)

    endpointer = Endpointer(Turns(detector="webrtc", hangover=0.3, stop_ratio=0.3))
    monkeypatch.setattr(webrtcvad, "Vad", Detector)
    noise = np.random.default_rng(0).normal(0.0, 0.1, at(3.0))
    noise[: at(1.0)] *= 0.01
    (utterance,) = find(chunks(noise), endpointer)
    assert utterance.ended_by is (EndedBy.END_OF_STREAM if goes_on else EndedBy.PAUSE)
    assert utterance.stream_end == pytest.approx(3.0 if goes_on else 1.7, abs=0.16)  # the level does not fall


def test_a_short_sound_is_counted_but_is_no_utterance():
    word = demo()[at(1.0) : at(1.15)]
    endpointer = Endpointer(Turns(min_duration=0.4))
    assert find(chunks(np.concatenate([silence(1.0), word, silence(1.0)])), endpointer) == []
    assert endpointer.counters.too_short == 1
    assert endpointer.counters.utterances == 0


@pytest.mark.parametrize(("lost", "ends"), [(3, [EndedBy.PAUSE]), (20, [EndedBy.GAP, EndedBy.PAUSE])])
def test_lost_sound_becomes_silence_or_ends_the_utterance(lost, ends):
    pieces = list(chunks(turn(0, 0.9)))
    middle = len(pieces) // 2
    utterances = find(pieces[:middle] + pieces[middle + lost :], max_gap=0.2)
    assert [utterance.ended_by for utterance in utterances] == ends
    assert utterances[0].stream_start == pytest.approx(0.9, abs=0.05)
    assert utterances[-1].stream_end == pytest.approx(0.9 + TURNS[0]["end"] - TURNS[0]["start"], abs=0.05)
    if len(ends) == 1:
        hole = 0.03 * middle - (utterances[0].samples_start - T0) / NANOSECONDS
        assert not utterances[0].samples[at(hole + 0.02) : at(hole + 0.03 * lost)].any()
        assert utterances[0].samples[at(hole) + at(0.03 * lost) : at(hole) + at(0.03 * lost) + 480].any()


def test_chunks_that_still_wait_at_the_end_count_with_their_gap():
    pieces = list(chunks(turn(0, 0.9), end=False))
    first = len(pieces) - 35  # in speech
    endpointer = Endpointer(Turns(max_gap=0.2))
    assert find(pieces[:first] + pieces[first + 3 : first + 6], endpointer) == []
    (utterance,) = (found for found in endpointer.flush() if found.is_final)
    assert utterance.ended_by is EndedBy.END_OF_STREAM
    assert utterance.stream_end == pytest.approx(0.03 * (first + 6), abs=0.05)


def test_the_end_of_the_stream_ends_the_utterance():
    (utterance,) = find(chunks(turn(0)[: at(1.5)]))
    assert utterance.ended_by is EndedBy.END_OF_STREAM
    assert utterance.stream_end == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("rate", [8000, 48000])
def test_the_last_word_before_the_end_is_not_left_in_the_resampler(rate):
    samples = soxr.resample(turn(0)[: at(1.5)], SAMPLE_RATE, rate)
    (utterance,) = find(chunks(samples, rate))
    assert utterance.stream_end == pytest.approx(1.5, abs=0.015)


def test_another_stream_ends_the_one_before():
    endpointer = Endpointer()
    found = find(chunks(turn(0)[: at(1.5)], end=False), endpointer)
    assert found == []
    assert endpointer.speaking
    (utterance,) = endpointer.push(next(chunks(turn(1), stream_id="m2")))
    assert utterance.stream_id == "m1"
    assert utterance.ended_by is EndedBy.END_OF_STREAM
    assert not endpointer.speaking


def test_what_comes_after_the_end_of_a_stream_is_refused_with_one_warning():
    warnings = []
    endpointer = Endpointer(warn=warnings.append)
    assert len(find(chunks(turn(0)), endpointer)) == 1
    assert follow(numbered_from(len(list(chunks(turn(0)))), chunks(turn(1))), endpointer) == []
    assert len(warnings) == 1
    assert "m1" in warnings[0]
    assert len(find(chunks(turn(1), stream_id="m2"), endpointer)) == 1


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("seconds", [8.0, 3.9, 1.4])
@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("size", [160, 480, 3200])
def test_a_recording_that_is_played_again_gives_the_same_utterances_under_new_ids(first, seconds, end, size):
    warnings = []
    endpointer = Endpointer(warn=warnings.append)
    recording = numbered_from(first, chunks(demo()[: at(seconds)], size=size, end=end))
    played = [find(recording, endpointer) for _ in range(3)]
    played.append([found for found in endpointer.flush() if found.is_final])
    expected = Endpointer()
    whole = [*find(recording, expected), *(found for found in expected.flush() if found.is_final)]
    assert len(whole) == (2 if seconds > 5.0 else 1)
    found = [utterance for each in played for utterance in each]
    assert_same_utterances(found, whole * 3)
    assert len({utterance.utterance_id for utterance in found}) == len(found)
    assert warnings == []


def test_a_recording_that_was_cut_off_while_someone_spoke_is_played_from_its_start():
    endpointer = Endpointer()
    recording = list(chunks(demo()[: at(8.0)]))
    assert find(recording[:80], endpointer) == []
    cut, *again = find(recording, endpointer)
    assert cut.ended_by is EndedBy.END_OF_STREAM
    assert cut.stream_end == pytest.approx(80 * 0.03, abs=0.05)
    assert_same_utterances(again, find(recording))
    assert cut.utterance_id not in {utterance.utterance_id for utterance in again}


@pytest.mark.parametrize("samples", [turn(0), turn(0)[: at(1.5)]])
def test_a_recording_in_one_chunk_is_played_again_too(samples):
    (recording,) = [replace(item, end_of_stream=True) for item in chunks(samples, size=len(samples), end=False)]
    endpointer = Endpointer()
    found = [utterance for _ in range(3) for utterance in find([recording], endpointer)]
    assert_same_utterances(found, find([recording]) * 3)
    assert len({utterance.utterance_id for utterance in found}) == 3


@pytest.mark.parametrize("numbers", [[0], [70], [20, 21, 23], [99], [98, 98, 98, 98, 98, 98], [5, 5, 5, 0, 0]])
def test_chunks_that_come_twice_do_not_begin_a_stream_anew(numbers):
    pieces = list(chunks(demo()[: at(8.0)]))
    twice = [*pieces[:100], *(pieces[number] for number in numbers), *pieces[100:]]
    endpointer = Endpointer()
    assert_same_utterances(find(twice, endpointer), find(pieces))
    assert endpointer.stream_counters.late == 0


@pytest.mark.parametrize("number", [0, 70, -1])
@pytest.mark.parametrize("another", [False, True])
def test_a_chunk_that_comes_twice_after_the_end_of_its_stream_is_left_out(number, another):
    pieces = list(chunks(demo()[: at(8.0)]))
    endpointer = Endpointer()
    assert len(find(pieces, endpointer)) == 2
    others = list(chunks(demo()[: at(8.0)], stream_id="m2"))
    mixed = [*others[:100], pieces[number], *others[100:]] if another else [pieces[number], *others]
    assert_same_utterances(find(mixed, endpointer), find(others))


@pytest.mark.parametrize("late", [(50,), (50, 51, 52), tuple(range(50, 58))])
def test_chunks_that_come_late_do_not_begin_a_stream_anew(late):
    pieces = list(chunks(demo()[: at(8.0)]))
    after = late[-1] + 12  # too late to be put in order
    order = [number for number in range(after) if number not in late] + [*late, *range(after, len(pieces))]
    endpointer = Endpointer(Turns(max_gap=0.5))
    found = find([pieces[number] for number in order], endpointer)
    ordered = [number for number in range(len(pieces)) if number not in late]
    assert_same_utterances(found, find([pieces[number] for number in ordered], max_gap=0.5))


def test_two_sources_on_one_topic_end_in_one_of_them_and_a_warning():
    warnings = []
    endpointer = Endpointer(warn=warnings.append)
    both = zip(chunks(turn(0)), chunks(turn(1), stream_id="m2"), strict=False)
    found = find([item for pair in both for item in pair], endpointer)
    assert {utterance.stream_id for utterance in found} == {"m2"}
    assert len(warnings) == 1


@pytest.mark.parametrize("first", [0, 1000])
def test_two_sources_under_one_stream_id_do_not_begin_it_anew_again_and_again(first):
    warnings = []
    endpointer = Endpointer(warn=warnings.append)
    ahead = numbered_from(first, chunks(demo()[: at(8.0)]))
    other = list(chunks(turn(1, 3.0), end=False))
    both = [item for pair in zip(ahead, other, strict=False) for item in pair]
    found = find([*both, *ahead[len(other) :]], endpointer)
    assert_same_utterances(found, find(ahead))
    assert len(warnings) == 1
    assert "two sources" in warnings[0]


# --- the robot speaks itself


def stamp(seconds):
    return T0 + round(seconds * NANOSECONDS)


def find_with_gate(gate, items, **config):
    """The utterances that are over, where the gate is closed (True) and opened at ``gate``: ``[(closed, seconds)]``.

    The stream has begun, since a gate has the time of its stream.
    """
    endpointer, items = Endpointer(Turns(**config)), iter(items)
    assert endpointer.push(next(items)) == []
    for closed, seconds in gate:
        endpointer.set_gate(closed, stamp(seconds))
    return endpointer, find(items, endpointer)


def test_while_the_robot_speaks_there_is_no_utterance():
    endpointer, found = find_with_gate([(True, 0.0)], chunks(demo()[: at(8.0)], end=False), gate_release=0.3)
    assert found == []
    assert endpointer.counters.gated_seconds == pytest.approx(8.0, abs=0.05)


def test_the_robot_cuts_an_utterance_off():
    said = TURNS[0]
    _, (utterance,) = find_with_gate([(True, said["start"] + 1.0)], chunks(demo()[: at(said["end"] + 1.0)]))
    assert utterance.ended_by is EndedBy.GATED
    assert utterance.stream_start == pytest.approx(said["start"], abs=0.03)
    assert utterance.stream_end == pytest.approx(said["start"] + 1.0, abs=0.1)
    assert utterance.stream_end <= said["start"] + 1.0 + FRAME_SECONDS


def test_after_the_robot_stopped_it_stays_deaf_for_the_release_and_no_longer():
    said = TURNS[0]
    opened = said["start"] + 0.7
    twice = [(True, 0.5), (True, 0.7), (False, opened), (False, opened + 0.2)]
    _, (utterance,) = find_with_gate(twice, chunks(demo()[: at(said["end"] + 1.0)]), gate_release=0.5, pre_roll=0.3)
    assert utterance.stream_start == pytest.approx(opened + 0.5, abs=0.15)
    assert utterance.samples_start >= stamp(opened + 0.5)  # no pre-roll from the robot's own voice
    assert utterance.stream_end == pytest.approx(said["end"], abs=0.03)


def test_the_robot_speaks_again_within_the_release():
    gate = [(True, 0.0), (False, 1.0), (True, 1.4)]
    endpointer, found = find_with_gate(gate, chunks(demo()[: at(8.0)], end=False), gate_release=0.5)
    assert found == []
    assert not endpointer.speaking


def test_opening_what_was_not_closed_changes_nothing():
    _, found = find_with_gate([(False, 0.0)], chunks(demo()[: at(8.0)]))
    assert len(found) == 2


# --- parameters


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"aggressiveness": 4}, "aggressiveness.*: 4 is not from 0 to 3"),
        ({"aggressiveness": 1.5}, "aggressiveness.*: 1.5 is not of type int"),
        ({"hangover": -0.1}, "hangover.*: -0.1 is not from"),
        ({"pre_roll": float("nan")}, "pre_roll.*: nan is not from"),
        ({"max_duration": float("inf")}, "max_duration.*: inf is not from"),
        ({"start_ratio": 0.0, "stop_ratio": 0.0}, "start_ratio.*: 0.0 is not from"),
        ({"start_ratio": 1.5}, "start_ratio.*: 1.5 is not from"),
        ({"start_ratio": 0.2, "stop_ratio": 0.3}, "stop_ratio .* must not be above start_ratio"),
        ({"min_duration": 3.0, "max_duration": 3.0}, "min_duration.*: 3.0 is not from"),
    ],
)
def test_impossible_parameters_are_refused_with_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Turns(**values)


def test_a_day_of_silence_takes_no_memory():
    endpointer = Endpointer()
    quiet = silence(0.1)[:, None]
    sizes = []
    for n in range(1500):
        endpointer.push(AudioChunk("m1", n, T0 + n * NANOSECONDS // 10, SAMPLE_RATE, quiet))
        if n % 300 == 299:
            sizes.append(
                (len(endpointer._frames), len(endpointer._foreground._history), len(endpointer._stream._begins))
            )
    assert sizes[-1] == sizes[-2]


# --- what is given out before an utterance is over


def assert_same_sound(one, other):
    assert one.is_same_input(other)
    assert (one.stream_start, one.stream_end, one.rms) == (other.stream_start, other.stream_end, other.rms)
    np.testing.assert_array_equal(one.samples, other.samples)


def test_what_a_pause_is_taken_for_is_known_long_before_it_is_over():
    events = follow(chunks(demo()), provisional_interval=0.0)
    assert [found.is_final for found in events] == [False, True] * len(TURNS)
    for ahead, final in zip(events[::2], events[1::2], strict=True):
        assert ahead.ended_by is EndedBy.PAUSE
        assert_same_sound(ahead, final)
    # Given out with the chunk that brings the last 0.15 s of silence that go along with it.
    endpointer = Endpointer()
    heard = follow(chunks(demo()[: at(TURNS[0]["end"] + 0.19)], size=160, end=False), endpointer)
    assert not heard[-1].is_final
    assert heard[-1].ended_by is EndedBy.PAUSE
    assert endpointer.speaking


def test_the_hang_over_counts_from_the_end_of_speech():
    for hangover in (0.3, 0.5, 1.0):
        endpointer, found = Endpointer(Turns(hangover=hangover)), None
        for item in chunks(demo(), size=160):
            if found := find([item], endpointer):
                passed = (item.stamp - found[0].end) / NANOSECONDS + 0.01
                assert passed == pytest.approx(hangover, abs=0.021)
                break
        assert found


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 11), st.floats(0.05, 0.9)), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.booleans(),
)
def test_partial_utterances_change_nothing_and_are_followed_by_one_that_is_over(said, interval, speculate):
    """Turns of the dialogue with pauses around the hang-over between them."""
    pieces = [silence(0.5)]
    for number, pause in said:
        pieces += [turn(number, margin=0.0), silence(pause)]
    samples = np.concatenate([*pieces, silence(0.3)])
    events = follow(chunks(samples), provisional_interval=interval, speculate=speculate)
    finals = [found for found in events if found.is_final]
    plain = find(chunks(samples))
    assert [final.utterance_id for final in finals] == [other.utterance_id for other in plain]
    for final, other in zip(finals, plain, strict=True):
        assert_same_sound(final, other)
        assert final.ended_by is other.ended_by
    over = []
    for found in events:
        assert found.utterance_id not in over  # nothing comes after it
        if found.is_final:
            over.append(found.utterance_id)
        else:
            assert (found.ended_by is EndedBy.SPEAKING) <= (interval > 0)
            assert (found.ended_by is EndedBy.PAUSE) <= speculate
    assert {found.utterance_id for found in events} == set(over)
    if speculate:
        for final in finals:
            if final.ended_by is EndedBy.PAUSE:
                ahead = [found for found in events if not found.is_final and found.utterance_id == final.utterance_id]
                assert_same_sound(ahead[-1], final)


def test_who_goes_on_after_a_short_pause_makes_one_utterance_under_one_id():
    samples = np.concatenate([silence(0.5), turn(0, 0.0), silence(0.3), turn(1, 0.0), silence(0.8)])
    events = follow(chunks(samples), provisional_interval=0.0)
    assert [(found.is_final, found.ended_by) for found in events] == [
        (False, EndedBy.PAUSE),
        (False, EndedBy.PAUSE),
        (True, EndedBy.PAUSE),
    ]
    first, second, final = events
    assert first.utterance_id == second.utterance_id == final.utterance_id
    assert first.end < second.end == final.end
    assert first.start == second.start


def test_while_someone_speaks_what_was_said_so_far_comes_at_the_rate_that_was_asked_for():
    samples = np.concatenate([silence(1.0), turn(5, 0.0), silence(0.5)])  # 2.7 s of speech
    so_far = [
        found for found in follow(chunks(samples), provisional_interval=0.5) if found.ended_by is EndedBy.SPEAKING
    ]
    lengths = [found.stream_end - found.stream_start for found in so_far]
    assert lengths[0] == pytest.approx(0.5, abs=0.25)  # where the first word began is placed later
    np.testing.assert_allclose(np.diff(lengths), 0.5, atol=0.15)
    assert len(lengths) == 5
    for found in so_far:
        assert found.stream_end == pytest.approx((found.end - T0) / NANOSECONDS, abs=1e-3)
        np.testing.assert_array_equal(found.samples[-160:], samples[at(found.stream_end) - 160 : at(found.stream_end)])


def test_a_sound_that_is_too_short_for_an_utterance_is_not_given_out_before_either():
    burst = np.concatenate([silence(0.5), turn(0, 0.0)[: at(0.15)], silence(1.0)])
    assert follow(chunks(burst), provisional_interval=0.05) == []
