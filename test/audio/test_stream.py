"""Order, mix-down, resampling and clock of one stream of chunks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from synctva_ros.audio.stream import (
    CLOCK_JUMP,
    DEAD_AFTER,
    MANY_DUPLICATES,
    ChunkOrderer,
    SampleStream,
    StreamCounters,
)
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk

T0 = 1_700_000_000 * NANOSECONDS
CHUNK = 0.03


def chunk(sequence, samples=None, rate=SAMPLE_RATE, stamp=None, end=False):
    if samples is None:
        samples = np.zeros(round(CHUNK * rate), np.float32)
    samples = np.asarray(samples, np.float32)
    if samples.ndim == 1:
        samples = samples[:, None]
    stamp = T0 + round(sequence * CHUNK * NANOSECONDS) if stamp is None else stamp
    return AudioChunk("m1", sequence, stamp, rate, samples, end)


def cut(samples, rate, length=CHUNK, start=T0):
    """Cut samples ``[n]`` or ``[n, channels]`` into chunks with true stamps."""
    size = max(round(length * rate), 1)
    return [
        chunk(number, samples[first : first + size], rate, start + round(first * NANOSECONDS / rate))
        for number, first in enumerate(range(0, len(samples), size))
    ]


def play(chunks, warnings=None, stream=None):
    stream = stream or SampleStream("m1", (warnings if warnings is not None else []).append)
    runs = [run for item in chunks for run in stream.push(item)]
    return stream, runs + list(stream.flush())


def joined(runs):
    """The samples of all runs, which must follow one another without hole or overlap."""
    for before, after in pairwise(runs):
        assert after.position == before.position + len(before.samples)
    return np.concatenate([np.zeros(0, np.float32), *(run.samples for run in runs)])


# --- order


@st.composite
def slightly_shuffled(draw):
    """Sequence numbers in which nobody is overtaken by more than ``max_waiting`` later ones."""
    max_waiting = draw(st.integers(1, 6))
    rest = list(range(draw(st.integers(1, 40))))
    order = []
    overtaken = dict.fromkeys(rest, 0)
    while rest:
        most = next((i for i, number in enumerate(rest) if overtaken[number] >= max_waiting), len(rest) - 1)
        index = draw(st.integers(0, min(most, max_waiting)))
        for number in rest[:index]:
            overtaken[number] += 1
        order.append(rest.pop(index))
    return max_waiting, order


@given(slightly_shuffled())
def test_shuffled_chunks_come_out_in_order_and_none_is_lost(case):
    max_waiting, order = case
    counters = StreamCounters()
    orderer = ChunkOrderer(max_waiting, counters)
    out = [item for number in order for item in orderer.push(chunk(number))] + list(orderer.flush())
    assert [item.sequence for _, item in out] == sorted(order)
    assert {lost for lost, _ in out} == {0}
    assert (counters.chunks, counters.lost, counters.duplicate, counters.late) == (len(order), 0, 0, 0)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 5))
def test_whatever_comes_every_chunk_is_accounted_for(order, max_waiting):
    counters = StreamCounters()
    orderer = ChunkOrderer(max_waiting, counters)
    out = [item for number in order for item in orderer.push(chunk(number))] + list(orderer.flush())
    sequences = [item.sequence for _, item in out]
    assert sequences == sorted(set(sequences))
    assert len(out) + counters.duplicate + counters.late == len(order)
    assert sum(lost for lost, _ in out) == counters.lost
    assert counters.lost == sequences[-1] - sequences[0] + 1 - len(sequences)


def test_duplicates_late_and_missing_chunks_are_told_apart():
    counters = StreamCounters()
    orderer = ChunkOrderer(2, counters)
    out = []
    for number in (0, 1, 1, 3, 4, 4, 5, 2, 2, 6):  # 2 is given up when 3, 4 and 5 wait
        out += orderer.push(chunk(number))
    assert [(lost, item.sequence) for lost, item in out] == [(0, 0), (0, 1), (1, 3), (0, 4), (0, 5), (0, 6)]
    assert (counters.chunks, counters.lost, counters.late, counters.duplicate) == (10, 1, 1, 3)


def test_a_stream_that_is_joined_late_begins_with_the_first_chunk_that_came():
    counters = StreamCounters()
    orderer = ChunkOrderer(5, counters)
    assert [item.sequence for _, item in orderer.push(chunk(1000))] == [1000]
    assert counters.lost == 0


def test_the_end_of_the_stream_releases_what_waits():
    counters = StreamCounters()
    orderer = ChunkOrderer(5, counters)
    list(orderer.push(chunk(0)))
    assert list(orderer.push(chunk(2))) == []
    assert [(lost, item.sequence) for lost, item in orderer.push(chunk(3, end=True))] == [(1, 2), (0, 3)]


def test_many_chunks_that_come_twice_are_warned_of_once():
    warnings = []
    play([chunk(n) for n in range(MANY_DUPLICATES)] + [chunk(n) for n in range(MANY_DUPLICATES)] * 2, warnings)
    assert len(warnings) == 1
    assert "two sources" in warnings[0]


# --- samples


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sine_stays_the_same_sine_at_16_khz(rate, channels):
    t = np.arange(round(1.7 * rate)) / rate
    sine = (0.5 * np.sin(2 * np.pi * 440.0 * t)).astype(np.float32)
    samples = sine if channels == 1 else np.stack([sine * 1.2, sine * 0.8], axis=1)
    _, runs = play(cut(samples, rate), stream=SampleStream("m1", pytest.fail, config=Turns(channel="mean")))
    got = joined(runs)
    assert got.dtype == np.float32
    assert len(got) == pytest.approx(len(sine) * SAMPLE_RATE / rate, abs=1)
    whole = soxr.resample(sine, rate, SAMPLE_RATE) if rate != SAMPLE_RATE else sine
    length = min(len(whole), len(got))
    np.testing.assert_allclose(got[:length], whole[:length], atol=1e-4)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=12), st.sampled_from([8000, 16000, 44100]))
def test_the_length_of_the_chunks_does_not_matter(lengths, rate):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, sum(lengths)).astype(np.float32)
    bounds = np.cumsum([0, *lengths])
    chunks = [
        chunk(number, noise[first:last], rate, T0 + round(int(first) * NANOSECONDS / rate))
        for number, (first, last) in enumerate(pairwise(bounds))
    ]
    np.testing.assert_allclose(joined(play(chunks)[1]), joined(play([chunk(0, noise, rate)])[1]), atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_click_keeps_its_time(rate):
    samples = np.zeros(2 * rate, np.float32)
    at = round(1.2345 * rate)
    samples[at : at + rate // 4000] = 0.9
    stream, runs = play(cut(samples, rate))
    peak = int(np.argmax(np.abs(joined(runs))))
    assert (stream.stamp_at(peak) - T0) / NANOSECONDS == pytest.approx(1.2345, abs=0.005)


def test_a_change_of_rate_midway_keeps_time_and_length():
    t = np.arange(48000) / 48000
    first = cut(0.5 * np.sin(2 * np.pi * 200 * t), 48000)
    later = cut(0.5 * np.sin(2 * np.pi * 200 * t[:44100] * 48000 / 44100), 44100)
    second = [chunk(len(first) + item.sequence, item.samples, 44100, item.stamp + NANOSECONDS) for item in later]
    stream, runs = play(first + second)
    assert sum(len(run.samples) for run in runs) == pytest.approx(2 * SAMPLE_RATE, abs=2)
    assert runs[-1].position + len(runs[-1].samples) == pytest.approx(2 * SAMPLE_RATE, abs=2)
    assert stream.counters.clock_jumps == 0


@given(st.integers(0, 60), st.sampled_from([160, 480, 500]))
def test_each_sample_knows_the_chunk_it_came_from(number, size):
    stream, runs = play([chunk(n, np.zeros(size)) for n in range(61)])
    first = number * size
    assert {stream.sequence_at(first), stream.sequence_at(first + size - 1)} == {number}
    assert len(joined(runs)) == 61 * size


def test_a_chunk_of_another_rate_is_found_by_time_not_by_when_it_left_the_resampler():
    stream, _ = play(cut(np.zeros(48000, np.float32), 48000, 0.02))
    assert [stream.sequence_at(320 * n) for n in range(50)] == list(range(50))
    assert [stream.sequence_at(320 * n + 319) for n in range(50)] == list(range(50))


def test_nan_and_infinity_become_silence_with_one_warning():
    samples = np.full(1600, 0.25, np.float32)
    samples[[3, 700]] = np.nan
    samples[900] = np.inf
    warnings = []
    stream, runs = play(cut(samples, SAMPLE_RATE), warnings)
    got = joined(runs)
    assert np.flatnonzero(got == 0.0).tolist() == [3, 700, 900]
    assert stream.counters.not_finite == 3
    assert len(warnings) == 1
    assert "NaN" in warnings[0]


def test_sound_beyond_full_scale_is_clipped():
    _, runs = play([chunk(0, [3.0, -3.0, 0.5])])
    assert joined(runs).tolist() == [1.0, -1.0, 0.5]


def test_dead_microphone_is_warned_of_once():
    warnings = []
    chunks = [chunk(n) for n in range(round(2.5 * DEAD_AFTER / CHUNK))]
    play(chunks[: round(0.9 * DEAD_AFTER / CHUNK)], warnings)
    assert warnings == []
    play(chunks, warnings)
    assert len(warnings) == 1
    assert "muted" in warnings[0]


def test_a_sound_in_between_shows_that_the_microphone_lives():
    quiet = round(0.7 * DEAD_AFTER / CHUNK)
    warnings = []
    chunks = [chunk(n) for n in range(2 * quiet)]
    chunks[quiet].samples[5] = 1e-4
    play(chunks, warnings)
    assert warnings == []


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(np.zeros(5, np.float32), 16000), (np.zeros((5, 0), np.float32), 16000), (np.zeros((5, 1), np.float32), 0)],
)
def test_a_malformed_chunk_is_left_out_with_one_warning_and_its_time_is_kept(samples, rate):
    warnings = []
    good = [chunk(n, np.full(480, 0.5)) for n in range(8)]
    bad = [AudioChunk("m1", n, good[n].stamp, rate, samples) for n in (3, 4)]
    stream, runs = play([*good[:3], *bad, *good[5:]], warnings)
    assert sum(len(run.samples) for run in runs) == 6 * 480
    assert [run.gap for run in runs if run.gap] == pytest.approx([2 * CHUNK])
    assert stream.stamp_at(runs[-1].position) == pytest.approx(good[-1].stamp, abs=1e6)
    assert sum("expected" in sentence for sentence in warnings) == 1


# --- channels


def voice(seconds=1.0, level=0.1, seed=0):
    """Bursts of 0.2 s with pauses of 0.05 s, as of syllables: ``[n]``."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = np.random.default_rng(seed).normal(0.0, level, len(t)) * (t % 0.25 < 0.2)
    return sound.astype(np.float32)


def noise(seconds=1.0, level=0.001, seed=9):
    return np.random.default_rng(seed).normal(0.0, level, round(seconds * SAMPLE_RATE)).astype(np.float32)


def heard(channels, channel="loudest", length=CHUNK, warnings=None):
    """What is heard of sound ``[n, channels]``."""
    warn = pytest.fail if warnings is None else warnings.append
    stream = SampleStream("m1", warn, config=Turns(channel=channel))
    return joined(play(cut(np.stack(channels, axis=1), SAMPLE_RATE, length), stream=stream)[1])


def share(got, of):
    """How much of ``of`` is in ``got``: 1 for all of it, at its level."""
    return float(got @ of / (of @ of))


@pytest.mark.parametrize("length", [0.01, 0.03, 0.1])
def test_opposite_polarity_is_heard_as_one_channel(length):
    said = voice()
    np.testing.assert_array_equal(heard([said, -said], length=length), said)
    assert not heard([said, -said], "mean").any()
    assert heard([said, -0.5 * said]) @ said > 0


@pytest.mark.parametrize("channel", range(6))
def test_one_voice_among_channels_of_silence_is_heard_at_its_level(channel):
    said = voice()
    channels = [np.zeros_like(said) for _ in range(6)]
    channels[channel] = said
    assert share(heard(channels), said) > 0.98
    assert share(heard(channels, "mean"), said) == pytest.approx(1 / 6, abs=0.01)


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("crosstalk", [0.0, 0.05])
def test_of_two_speakers_on_two_sides_whoever_speaks_is_heard(pause, crosstalk):
    quiet = np.zeros(round(pause * SAMPLE_RATE), np.float32)
    turns, sides = [], [[], []]
    for number in range(6):
        turns.append(voice(1.0, seed=number))
        for side in (0, 1):
            sides[side] += [turns[-1] * (1.0 if side == number % 2 else crosstalk), quiet]
    left, right = (np.concatenate(side) + noise(6 * (1 + pause), 0.0003, seed) for seed, side in enumerate(sides))
    got = heard([left, right])
    for number, said in enumerate(turns):
        first = round(number * (1 + pause) * SAMPLE_RATE)
        assert share(got[first : first + len(said)], said) > 0.93, number


def test_a_constant_noise_on_one_side_does_not_hide_the_voice_on_the_other():
    fan, said = noise(4.0, 0.05), np.concatenate([noise(2.0), voice(2.0, 0.05)])
    got = heard([fan, said])
    assert share(got[2 * SAMPLE_RATE :], said[2 * SAMPLE_RATE :]) > 0.95
    hum = (0.2 + 0.1 * np.sin(2 * np.pi * 50 * np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    assert share(heard([hum, said])[2 * SAMPLE_RATE :], said[2 * SAMPLE_RATE :]) > 0.9


def test_within_an_utterance_the_channel_stays():
    said = voice(3.0)
    swing = 1 + 0.4 * np.sin(2 * np.pi * 2 * np.arange(len(said)) / SAMPLE_RATE)  # who speaks turns the head
    left, right = (said * swing).astype(np.float32), (said * (2 - swing) * 0.9).astype(np.float32)
    got = heard([left + noise(3.0), right + noise(3.0, seed=8)])
    is_left = np.abs(got - left) < np.abs(got - right)
    loud = np.abs(left - right) > 0.02
    assert is_left[loud].mean() > 0.99 or is_left[loud].mean() < 0.01


def test_a_channel_may_be_named_and_one_that_does_not_exist_is_said_once():
    said, playback = voice(), voice(1.0, 0.3, seed=3)
    np.testing.assert_array_equal(heard([playback, said], "1"), said)
    warnings = []
    assert share(heard([0 * said, said], "2", warnings=warnings), said) > 0.98
    assert len(warnings) == 1
    assert "stream m1: there is no channel 2 among the 2 of the sound" in warnings[0]
    np.testing.assert_array_equal(heard([said], "2"), said)
    for wrong in ("left", "-1", "1.0", ""):
        with pytest.raises(ValueError, match="channel is"):
            Turns(channel=wrong)
    with pytest.raises(ValueError, match="write it in quotes: '0'"):
        Turns(channel=0)


def test_the_channel_and_their_number_may_change_midway():
    said = voice()
    config = Turns(channel="0")
    stream = SampleStream("m1", pytest.fail, config=config)
    chunks = cut(np.stack([said, -said], axis=1), SAMPLE_RATE)
    runs = []
    for number, item in enumerate(chunks):
        config.channel = "0" if number < 10 else "1"
        runs += list(stream.push(item))
    assert share(joined(runs)[:4800], said[:4800]) == 1.0
    assert share(joined(runs)[4800:], said[4800:]) == -1.0
    half = cut(said, SAMPLE_RATE)[:10]
    chunks = half + [
        chunk(item.sequence, np.stack([0 * item.samples[:, 0], item.samples[:, 0]], 1)) for item in chunks[10:]
    ]
    assert share(joined(play(chunks)[1]), said) > 0.98


# --- clock


def test_a_time_before_the_first_chunk_is_an_error():
    stream = SampleStream("m1", print)
    with pytest.raises(ValueError, match="no chunk"):
        stream.stamp_at(0)
    with pytest.raises(ValueError, match="no chunk"):
        stream.sequence_at(0)


@pytest.mark.parametrize("jump", [3.0, -3.0])
def test_a_jump_of_the_clock_is_followed_at_once_counted_and_said(jump):
    warnings = []
    chunks = [chunk(n, stamp=T0 + round((n * CHUNK + (jump if n >= 20 else 0)) * NANOSECONDS)) for n in range(40)]
    for item in chunks:
        item.samples[:] = 0.1
    stream, runs = play(chunks, warnings)
    assert stream.counters.clock_jumps == 1
    assert stream.stamp_at(runs[-1].position) == pytest.approx(chunks[-1].stamp, abs=1e5)
    assert not any(run.gap for run in runs)
    assert len(warnings) == 1
    assert "jumped" in warnings[0]


def test_slow_drift_is_followed_and_jitter_averaged_out():
    drift, jitter, seconds = 100e-6, 0.01, 300
    rng = np.random.default_rng(0)
    stream = SampleStream("m1", pytest.fail)
    errors = []
    for n in range(round(seconds / CHUNK)):
        true = n * CHUNK * (1 + drift)
        noise = rng.uniform(-jitter, jitter) if n else 0.0
        for run in stream.push(chunk(n, np.full(480, 0.1), stamp=T0 + round((true + noise) * NANOSECONDS))):
            errors.append((stream.stamp_at(run.position) - T0) / NANOSECONDS - true)
    assert seconds * drift > 0.025  # what the drift amounts to
    assert np.abs(errors).max() < 0.004
    assert stream.counters.clock_jumps == 0


@given(st.integers(1, 200))
def test_lost_chunks_make_a_gap_as_long_as_the_stamps_say(lost):
    actual = lost * CHUNK * 1.3  # say the lost ones were longer
    before = [chunk(n, np.full(480, 0.1)) for n in range(10)]
    stamp = before[-1].stamp + round((CHUNK + actual) * NANOSECONDS)
    warnings = []
    stream, runs = play([*before, chunk(10 + lost, np.full(480, 0.1), stamp=stamp)], warnings)
    gap = next(run for run in runs if run.gap)
    assert gap.gap == pytest.approx(actual, abs=1e-3)
    assert gap.position == pytest.approx((10 * CHUNK + actual) * SAMPLE_RATE, abs=2)
    assert stream.stamp_at(gap.position) == pytest.approx(stamp, abs=1e6)
    assert stream.counters.lost == lost
    assert sum("lost" in sentence for sentence in warnings) == 1


@pytest.mark.parametrize("stamp", [0, T0 - 5 * NANOSECONDS, T0 + 3600 * NANOSECONDS])
def test_with_useless_stamps_the_gap_is_as_long_as_the_count_says(stamp):
    before = [chunk(n, np.full(480, 0.1)) for n in range(10)]
    stream, runs = play([*before, chunk(14, np.full(480, 0.1), stamp=stamp)])
    assert [run.gap for run in runs if run.gap] == pytest.approx([4 * CHUNK])
    assert stream.counters.clock_jumps == 1
    assert stream.stamp_at(runs[-1].position) == stamp


def test_before_a_gap_the_resampler_gives_all_it_holds():
    samples = np.full(4800, 0.5, np.float32)
    chunks = cut(samples, 48000, 0.02)
    later = [chunk(n + 20, item.samples, 48000, item.stamp + round(0.4 * NANOSECONDS)) for n, item in enumerate(chunks)]
    _, runs = play(chunks + later)
    first = next(n for n, run in enumerate(runs) if run.gap)
    assert len(joined(runs[:first])) == pytest.approx(1600, abs=1)
    assert len(joined(runs[first:])) == pytest.approx(1600, abs=1)
    assert runs[first].position == pytest.approx(0.4 * SAMPLE_RATE, abs=2)


def test_the_empty_last_chunk_has_no_say_about_time():
    chunks = [chunk(n, np.full(480, 0.1)) for n in range(10)]
    stream, _ = play([*chunks, chunk(10, np.zeros(0), stamp=0, end=True)])
    assert stream.stamp_at(0) == pytest.approx(T0, abs=1000)
    assert stream.counters.clock_jumps == 0


def test_jitter_below_a_jump_does_not_count_as_one():
    stamps = [T0 + round((n * CHUNK + (n % 2) * 0.9 * CLOCK_JUMP) * NANOSECONDS) for n in range(50)]
    stream, _ = play([chunk(n, stamp=stamp) for n, stamp in enumerate(stamps)])
    assert stream.counters.clock_jumps == 0
