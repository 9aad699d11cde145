"""Utterances on the demo dialogue, whose true starts and ends are known, and in all that can happen to a stream."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

import synctva_ros.demo
from synctva_ros.audio.endpointer import FRAME_SECONDS, TAIL, Endpointer, EndpointerConfig
from synctva_ros.audio.stream import SAMPLE_RATE
from synctva_ros.events import NANOSECONDS, AudioChunk, EndedBy
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
    endpointer = endpointer or Endpointer(EndpointerConfig(**config))
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


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=20))
def test_the_length_of_the_chunks_does_not_matter(sizes):
    samples = demo()[: at(8.0)]
    cuts = [0]
    while cuts[-1] < len(samples):
        cuts.append(min(cuts[-1] + sizes[len(cuts) % len(sizes)], len(samples)))
        if len(cuts) > 2000:  # enough tiny ones
            cuts.append(len(samples))
    pieces = [
        AudioChunk("m1", n, T0 + round(first * NANOSECONDS / SAMPLE_RATE), SAMPLE_RATE, samples[first:last, None])
        for n, (first, last) in enumerate(pairwise(cuts))
    ]
    got, expected = find([*pieces, end_chunk(len(pieces))]), find(chunks(samples))
    assert len(got) == 2
    for one, other in zip(got, expected, strict=True):
        assert (one.stream_start, one.stream_end, one.ended_by) == (
            other.stream_start,
            other.stream_end,
            other.ended_by,
        )
        np.testing.assert_array_equal(one.samples, other.samples)
        # The numbers are those of the chunks with the first and with the last sample.
        begin = round((one.samples_start - T0) * SAMPLE_RATE / NANOSECONDS)
        last = begin + len(one.samples) - 1
        assert cuts[one.first_sequence] <= begin < cuts[one.first_sequence + 1]
        assert cuts[one.last_sequence] <= last < cuts[one.last_sequence + 1]


def end_chunk(sequence, stream_id="m1"):
    return AudioChunk(stream_id, sequence, 0, SAMPLE_RATE, np.zeros((0, 1), np.float32), end_of_stream=True)


# --- what an utterance holds


def test_pre_roll_and_tail_are_there_and_speech_is_between_them():
    config = EndpointerConfig(pre_roll=0.2, hangover=0.4)
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


def test_the_speaker_is_passed_on():
    assert {u.speaker_id for u in find(chunks(turn(0)), Endpointer(speaker_id="anna"))} == {"anna"}


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


# --- how utterances end


def monologue(seconds):
    """Speech without a pause: the turns of the dialogue one after the other."""
    speech = np.concatenate([demo()[at(said["start"]) : at(said["end"])] for said in TURNS])
    assert len(speech) >= at(seconds)
    return np.concatenate([silence(0.5), speech[: at(seconds)], silence(1.0)])


@pytest.mark.parametrize("seconds", [3.1, 5.0, 12.0, 25.0])
def test_a_long_utterance_is_split_and_nothing_is_lost(seconds):
    samples = monologue(seconds)
    endpointer = Endpointer(EndpointerConfig(max_duration=3.0))
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
    length = TURNS[0]["end"] - TURNS[0]["start"]
    (utterance,) = find(chunks(turn(0, 0.9)), max_duration=length + 0.2)
    assert utterance.ended_by is EndedBy.PAUSE


@pytest.mark.parametrize(("every", "goes_on"), [(2, True), (8, False)])
def test_a_flicker_of_the_detector_does_not_keep_an_utterance_going(every, goes_on):
    class Detector:
        """Says yes for half a second, then to one frame in ``every``."""

        frame = 0

        def is_speech(self, pcm, rate):
            self.frame += 1
            return self.frame <= 50 or self.frame % every == 0

    endpointer = Endpointer(EndpointerConfig(hangover=0.3, stop_ratio=0.3))
    endpointer._vad = Detector()
    noise = np.random.default_rng(0).normal(0.0, 0.1, at(2.0))
    (utterance,) = find(chunks(noise), endpointer)
    assert utterance.ended_by is (EndedBy.END_OF_STREAM if goes_on else EndedBy.PAUSE)
    assert utterance.stream_end == pytest.approx(2.0 if goes_on else 0.5, abs=0.15)


def test_a_short_sound_is_counted_but_is_no_utterance():
    word = demo()[at(1.0) : at(1.15)]
    endpointer = Endpointer(EndpointerConfig(min_duration=0.4))
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
    endpointer = Endpointer(EndpointerConfig(max_gap=0.2))
    assert find(pieces[:first] + pieces[first + 3 : first + 6], endpointer) == []
    (utterance,) = endpointer.flush()
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
    assert find(chunks(turn(1)), endpointer) == []
    assert len(warnings) == 1
    assert "m1" in warnings[0]
    assert len(find(chunks(turn(1), stream_id="m2"), endpointer)) == 1


def test_two_sources_on_one_topic_end_in_one_of_them_and_a_warning():
    warnings = []
    endpointer = Endpointer(warn=warnings.append)
    both = zip(chunks(turn(0)), chunks(turn(1), stream_id="m2"), strict=False)
    found = find([item for pair in both for item in pair], endpointer)
    assert {utterance.stream_id for utterance in found} == {"m2"}
    assert len(warnings) == 1


# --- the robot speaks itself


def stamp(seconds):
    return T0 + round(seconds * NANOSECONDS)


def test_while_the_robot_speaks_there_is_no_utterance():
    endpointer = Endpointer(EndpointerConfig(gate_release=0.3))
    endpointer.set_gate(True, stamp(0.0))
    assert find(chunks(demo()[: at(8.0)], end=False), endpointer) == []
    assert endpointer.counters.gated_seconds == pytest.approx(8.0, abs=0.05)


def test_the_robot_cuts_an_utterance_off():
    endpointer = Endpointer()
    said = TURNS[0]
    endpointer.set_gate(True, stamp(said["start"] + 1.0))
    (utterance,) = find(chunks(demo()[: at(said["end"] + 1.0)]), endpointer)
    assert utterance.ended_by is EndedBy.GATED
    assert utterance.stream_start == pytest.approx(said["start"], abs=0.03)
    assert utterance.stream_end == pytest.approx(said["start"] + 1.0, abs=0.1)
    assert utterance.stream_end <= said["start"] + 1.0 + FRAME_SECONDS


def test_after_the_robot_stopped_it_stays_deaf_for_the_release_and_no_longer():
    endpointer = Endpointer(EndpointerConfig(gate_release=0.5, pre_roll=0.3))
    said = TURNS[0]
    opened = said["start"] + 0.7
    endpointer.set_gate(True, stamp(0.5))
    endpointer.set_gate(True, stamp(0.7))  # says it twice
    endpointer.set_gate(False, stamp(opened))
    endpointer.set_gate(False, stamp(opened + 0.2))
    (utterance,) = find(chunks(demo()[: at(said["end"] + 1.0)]), endpointer)
    assert utterance.stream_start == pytest.approx(opened + 0.5, abs=0.15)
    assert utterance.samples_start >= stamp(opened + 0.5)  # no pre-roll from the robot's own voice
    assert utterance.stream_end == pytest.approx(said["end"], abs=0.03)


def test_the_robot_speaks_again_within_the_release():
    endpointer = Endpointer(EndpointerConfig(gate_release=0.5))
    endpointer.set_gate(True, stamp(0.0))
    endpointer.set_gate(False, stamp(1.0))
    endpointer.set_gate(True, stamp(1.4))
    assert find(chunks(demo()[: at(8.0)], end=False), endpointer) == []


def test_opening_what_was_not_closed_changes_nothing():
    endpointer = Endpointer()
    endpointer.set_gate(False, stamp(0.0))
    assert len(find(chunks(demo()[: at(8.0)]), endpointer)) == 2


# --- parameters


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"aggressiveness": 4}, "webrtcvad knows 0, 1, 2 and 3"),
        ({"aggressiveness": 1.5}, "webrtcvad knows"),
        ({"hangover": -0.1}, "hangover is -0.1"),
        ({"pre_roll": float("nan")}, "pre_roll is nan"),
        ({"max_duration": float("inf")}, "max_duration is inf"),
        ({"start_ratio": 0.0, "stop_ratio": 0.0}, "start_ratio is 0.0"),
        ({"start_ratio": 1.5}, "start_ratio is 1.5"),
        ({"start_ratio": 0.2, "stop_ratio": 0.3}, "stop_ratio .* must not be above start_ratio"),
        ({"min_duration": 3.0, "max_duration": 3.0}, "max_duration .* must be above min_duration"),
    ],
)
def test_impossible_parameters_are_refused_with_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        EndpointerConfig(**values)


def test_a_day_of_silence_takes_no_memory():
    endpointer = Endpointer()
    quiet = silence(0.1)[:, None]
    sizes = []
    for n in range(1500):
        endpointer.push(AudioChunk("m1", n, T0 + n * NANOSECONDS // 10, SAMPLE_RATE, quiet))
        if n % 300 == 299:
            sizes.append((len(endpointer._frames), len(endpointer._noise), len(endpointer._stream._begins)))
    assert sizes[-1] == sizes[-2]


# --- what is given out before an utterance is over


def follow(items, **config):
    """What is given out over time: partial utterances and those that are over, in order."""
    events = []
    endpointer = Endpointer(EndpointerConfig(**config), on_partial=lambda found: events.append((False, found)))
    for item in items:
        events += [(True, found) for found in endpointer.push(item)]
    return events


def assert_same_sound(one, other):
    assert one.is_same_sound(other)
    assert (one.stream_start, one.stream_end, one.rms) == (other.stream_start, other.stream_end, other.rms)
    np.testing.assert_array_equal(one.samples, other.samples)


def test_what_a_pause_is_taken_for_is_known_long_before_it_is_over():
    events = follow(chunks(demo()), provisional_interval=0.0)
    assert [is_over for is_over, _ in events] == [False, True] * len(TURNS)
    for (_, ahead), (_, final) in zip(events[::2], events[1::2], strict=True):
        assert ahead.ended_by is EndedBy.PAUSE
        assert_same_sound(ahead, final)
    # Given out with the chunk that brings the last 0.15 s of silence that go along with it.
    heard = []
    endpointer = Endpointer(on_partial=lambda found: heard.append(found.ended_by))
    for item in chunks(demo()[: at(TURNS[0]["end"] + 0.19)], size=160, end=False):
        endpointer.push(item)
    assert heard[-1] is EndedBy.PAUSE
    assert endpointer.speaking


def test_the_hang_over_counts_from_the_end_of_speech():
    for hangover in (0.3, 0.5, 1.0):
        endpointer, found = Endpointer(EndpointerConfig(hangover=hangover)), None
        for item in chunks(demo(), size=160):
            if found := endpointer.push(item):
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
    finals = [found for is_over, found in events if is_over]
    plain = find(chunks(samples))
    assert [final.utterance_id for final in finals] == [other.utterance_id for other in plain]
    for final, other in zip(finals, plain, strict=True):
        assert_same_sound(final, other)
        assert final.ended_by is other.ended_by
    over = []
    for is_over, found in events:
        assert found.utterance_id not in over  # nothing comes after it
        if is_over:
            over.append(found.utterance_id)
        else:
            assert (found.ended_by is EndedBy.SPEAKING) <= (interval > 0)
            assert (found.ended_by is EndedBy.PAUSE) <= speculate
    assert {found.utterance_id for _, found in events} == set(over)
    if speculate:
        for final in finals:
            if final.ended_by is EndedBy.PAUSE:
                ahead = [found for is_over, found in events if not is_over and found.utterance_id == final.utterance_id]
                assert_same_sound(ahead[-1], final)


def test_who_goes_on_after_a_short_pause_makes_one_utterance_under_one_id():
    samples = np.concatenate([silence(0.5), turn(0, 0.0), silence(0.3), turn(1, 0.0), silence(0.8)])
    events = follow(chunks(samples), provisional_interval=0.0)
    assert [(is_over, found.ended_by) for is_over, found in events] == [
        (False, EndedBy.PAUSE),
        (False, EndedBy.PAUSE),
        (True, EndedBy.PAUSE),
    ]
    first, second, final = (found for _, found in events)
    assert first.utterance_id == second.utterance_id == final.utterance_id
    assert first.end < second.end == final.end
    assert first.start == second.start


def test_while_someone_speaks_what_was_said_so_far_comes_at_the_rate_that_was_asked_for():
    samples = np.concatenate([silence(1.0), turn(5, 0.0), silence(0.5)])  # 2.7 s of speech
    so_far = [
        found
        for is_over, found in follow(chunks(samples), provisional_interval=0.5)
        if found.ended_by is EndedBy.SPEAKING
    ]
    lengths = [found.stream_end - found.stream_start for found in so_far]
    np.testing.assert_allclose(lengths, 0.5 * np.arange(1, len(lengths) + 1), atol=0.1)
    assert len(lengths) == 5
    for found in so_far:
        assert found.stream_end == pytest.approx((found.end - T0) / NANOSECONDS, abs=1e-3)
        np.testing.assert_array_equal(found.samples[-160:], samples[at(found.stream_end) - 160 : at(found.stream_end)])


def test_a_sound_that_is_too_short_for_an_utterance_is_not_given_out_before_either():
    burst = np.concatenate([silence(0.5), turn(0, 0.0)[: at(0.15)], silence(1.0)])
    assert follow(chunks(burst), provisional_interval=0.05) == []
