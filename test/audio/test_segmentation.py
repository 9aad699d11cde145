"""A change of speaker ends an utterance, pause or none; the network is a stream's, however it is cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import synctva_ros.demo
from synctva_ros.audio import segmentation_network
from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.audio.segmentation import NOTHING, Activity, CausalSegmenter
from synctva_ros.audio.segmentation_network import FRAME, OUTPUTS, SegmentationConfig, SegmentationNetwork
from synctva_ros.config import Turns
from synctva_ros.events import NANOSECONDS, SAMPLE_RATE, AudioChunk, EndedBy
from synctva_ros.sources.media import MediaFile
from synctva_ros.weights.files import WeightsError, write

DEMO = Path(synctva_ros.demo.__file__).parent
TURNS = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]
#: Frames of 10 ms that the segmenter of these tests hears before it judges one.
LATE = 40


@pytest.fixture(scope="module")
def voices():
    """The words of the demo's turns, without the pauses."""
    whole = np.concatenate([item.samples for item in MediaFile(DEMO / "dialogue.flac").play(0)])[:, 0]
    return [whole[round(said["start"] * SAMPLE_RATE) : round(said["end"] * SAMPLE_RATE)] for said in TURNS]


class Known:
    """A segmenter that knows the truth: spans ``(start, end, speaker)`` in seconds."""

    def __init__(self, spans, length):
        frames = round(length * 100)
        count, self.change = np.zeros(frames, np.int64), np.zeros(frames, np.float32)
        last = None
        for start, end, speaker in spans:
            if speaker is not None:
                count[round(start * 100) : round(end * 100)] += 1
                self.change[round(start * 100)] = float(last not in (None, speaker))
                last = speaker
        self.front, self.overlap = (count > 0).astype(np.float32), (count > 1).astype(np.float32)
        self.reset()

    def reset(self):
        self.heard = self.judged = 0

    def push(self, samples):
        self.heard += len(samples)
        now = min(self.heard // 160 - LATE, len(self.front))
        if now <= self.judged:
            return NOTHING
        part = slice(self.judged, now)
        self.judged = now
        return Activity(self.front[part], self.overlap[part], self.change[part])


def conversation(voices, gaps, start=1.0):
    """Turns one after the other with these gaps between them [s], negative ones overlap, and where they are."""
    spans, at = [], start
    for number, gap in enumerate([*gaps, 0.0]):
        length = len(voices[number]) / SAMPLE_RATE
        spans.append((at, at + length, number % 2))
        at += length + gap
    sound = np.random.default_rng(0).normal(0.0, 2e-4, round((spans[-1][1] + 1.5) * SAMPLE_RATE))
    for (first, _, _), voice in zip(spans, voices, strict=False):
        at = round(first * SAMPLE_RATE)
        sound[at : at + len(voice)] += voice
    return sound.astype(np.float32), spans


def follow(sound, segmenter, is_another=None, **config):
    """What is given out, each with the time when it was [s]."""
    endpointer = Endpointer(Turns(**config), segmenter=segmenter, is_another=is_another)
    told = []
    for number, first in enumerate(range(0, len(sound), 480)):
        stamp = first * NANOSECONDS // SAMPLE_RATE
        chunk = AudioChunk("m1", number, stamp, SAMPLE_RATE, sound[first : first + 480, None])
        told += [((first + 480) / SAMPLE_RATE, found) for found in endpointer.push(chunk)]
    return told + [(len(sound) / SAMPLE_RATE, found) for found in endpointer.flush()], endpointer


def final(told):
    return [found for _, found in told if found.is_final]


@pytest.mark.parametrize("gap", [-0.3, 0.0, 0.05, 0.15, 0.25, 0.4])
def test_another_speaker_ends_the_utterance_with_or_without_a_pause(voices, gap):
    sound, spans = conversation(voices[:4], [gap] * 3)
    told, _ = follow(sound, Known(spans, len(sound) / SAMPLE_RATE))
    found = final(told)
    assert len(found) == 4
    assert [one.ended_by for one in found] == [EndedBy.SPEAKER] * 3 + [EndedBy.PAUSE]
    for number, (one, (start, end, _)) in enumerate(zip(found, spans, strict=True)):
        assert one.stream_start == pytest.approx(start, abs=0.05)
        # Where two speak, the first one's utterance ends where the second person begins.
        assert one.stream_end == pytest.approx(min(end, spans[number + 1][0]) if number < 3 else end, abs=0.08)
        assert one.samples_start >= (0 if number == 0 else found[number - 1].end)
    assert len({one.utterance_id for one in found}) == 4
    shares = [0.0] + [max(-gap, 0.0) / (one.stream_end - one.stream_start) for one in found[1:]]
    assert [one.overlap for one in found] == pytest.approx(shares, abs=0.03)


def test_the_decision_takes_half_a_second_and_says_where_the_end_was(voices):
    sound, spans = conversation(voices[:3], [0.1, 0.1])
    told, _ = follow(sound, Known(spans, len(sound) / SAMPLE_RATE))
    for (now, one), (start, _, _) in zip([each for each in told if each[1].is_final][:2], spans[1:], strict=True):
        assert now - start <= LATE / 100 + 0.15
        assert one.stream_end <= start + 0.02


def test_what_was_given_ahead_in_a_short_pause_is_what_the_utterance_is_when_another_speaks(voices):
    sound, spans = conversation(voices[:2], [0.35])
    told, _ = follow(sound, Known(spans, len(sound) / SAMPLE_RATE), provisional_interval=0.0)
    ahead, whole = next(one for _, one in told if not one.is_final), final(told)[0]
    assert whole.ended_by is EndedBy.SPEAKER
    assert ahead.is_same_input(whole)
    np.testing.assert_array_equal(ahead.samples, whole.samples)


def test_one_speaker_goes_on_over_a_short_pause(voices):
    sound, spans = conversation(voices[:2], [0.3])
    told, _ = follow(sound, Known([(*span[:2], 0) for span in spans], len(sound) / SAMPLE_RATE))
    assert [one.ended_by for one in final(told)] == [EndedBy.PAUSE]


def test_a_voice_that_plainly_goes_on_is_not_cut(voices):
    """The segmenter hears a change at each turn, and the second is none."""
    sound, spans = conversation(voices[:4], [0.1] * 3)
    asked = []

    def is_another(before, after, probability):
        asked.append((before, after))
        assert probability > 0.5
        return len(asked) != 2

    told, endpointer = follow(sound, Known(spans, len(sound) / SAMPLE_RATE), is_another)
    found = final(told)
    assert [one.ended_by for one in found] == [EndedBy.SPEAKER] * 2 + [EndedBy.PAUSE]
    assert [one.stream_start for one in found] == pytest.approx([spans[n][0] for n in (0, 1, 3)], abs=0.05)
    assert endpointer.counters.same_voice == 1
    assert len(asked) == 3  # and no second time
    for (before, after), voice in zip(asked[:1], voices, strict=False):
        # What was said before the change, and 0.6 s from it on.
        assert len(before) == pytest.approx(len(voice) + 0.1 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
        assert 0.6 * SAMPLE_RATE <= len(after) <= 0.7 * SAMPLE_RATE


def test_what_is_too_short_for_a_turn_stays_with_whoever_spoke_before(voices):
    """The last word of a sentence, when the voice falls, is what is most often taken for somebody else's."""
    sound, spans = conversation(voices[:1], [])
    first, end, _ = spans[0]
    heard = [(first, end - 0.5, 0), (end - 0.5, end, 1)]
    told, _ = follow(sound, Known(heard, len(sound) / SAMPLE_RATE), lambda before, after, probability: True)
    assert [one.ended_by for one in final(told)] == [EndedBy.PAUSE]
    assert final(told)[0].stream_end == pytest.approx(end, abs=0.05)


def test_a_voice_behind_is_no_utterance_and_keeps_none_open(voices):
    sound, spans = conversation(voices[:4], [0.1] * 3)
    # The first two are behind, and so is the last.
    truth = [(*span[:2], None if number in (0, 1, 3) else 0) for number, span in enumerate(spans)]
    told, endpointer = follow(sound, Known(truth, len(sound) / SAMPLE_RATE))
    found = final(told)
    assert endpointer.counters.behind >= 1
    assert [round(one.stream_end, 1) for one in found] == pytest.approx([spans[2][1]], abs=0.15)


def test_nothing_is_cut_without_a_segmenter(voices):
    sound, spans = conversation(voices[:4], [0.1] * 3)
    (found,) = final(follow(sound, None)[0])
    assert (found.stream_start, found.stream_end) == pytest.approx((spans[0][0], spans[-1][1]), abs=0.05)
    assert found.overlap == 0.0


def test_another_stream_is_judged_anew(voices):
    sound, spans = conversation(voices[:3], [0.1, 0.1])
    known = Known(spans, len(sound) / SAMPLE_RATE)
    endpointer = Endpointer(Turns(speculate=False, provisional_interval=0.0), segmenter=known)
    ends = []
    for stream in ("m1", "m2"):
        found = []
        for number, first in enumerate(range(0, len(sound), 480)):
            stamp = first * NANOSECONDS // SAMPLE_RATE
            found += endpointer.push(AudioChunk(stream, number, stamp, SAMPLE_RATE, sound[first : first + 480, None]))
        ends.append([(one.stream_start, one.stream_end, one.ended_by) for one in found + endpointer.flush()])
    assert ends[0] == ends[1]
    assert len(ends[0]) == 3


# --- the network


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return SegmentationNetwork(SegmentationConfig(width=16, hidden=24, layers=2, look_ahead=3)).eval()


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_the_network_does_not_know_how_its_sound_was_cut(network, cuts):
    sound = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (1, 40 * FRAME))).float()
    with torch.inference_mode():
        whole, vectors, _ = network(sound, network.start())
        state, said, at = network.start(), [], 0
        for frames in [*cuts, 40]:
            piece = sound[:, at : at + frames * FRAME]
            at += frames * FRAME
            if piece.shape[1]:
                logits, _, state = network(piece, state)
                said.append(logits)
    torch.testing.assert_close(torch.cat(said, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert whole.shape == (1, 40, len(OUTPUTS))
    assert vectors.shape == (1, 40, network.config.voice)


def test_the_network_hears_nothing_of_the_future(network):
    sound = torch.randn(1, 20 * FRAME, generator=torch.Generator().manual_seed(0)) * 0.1
    other = sound.clone()
    other[:, 12 * FRAME :] = 0.0
    with torch.inference_mode():
        one, two = (network(each, network.start())[0] for each in (sound, other))
    torch.testing.assert_close(one[:, :12], two[:, :12])
    assert not torch.allclose(one[:, 12:], two[:, 12:])


def stored(network, folder):
    tensors = {name: each.half() if each.is_floating_point() else each for name, each in network.state_dict().items()}
    write(folder, network.ARCHITECTURE, "small", tensors, {"network": vars(network.config), "training": {}})
    return folder


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    return str(stored(network, tmp_path_factory.mktemp("segmentation")))


@settings(deadline=None, max_examples=10)
@given(sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=10))
def test_the_segmenter_judges_each_frame_once_and_a_while_later(weights, sizes):
    segmenter = CausalSegmenter(weights)
    sound = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
    heard, judged, at, n = 0, [], 0, 0
    while at < len(sound):
        piece = sound[at : at + sizes[n % len(sizes)]]
        at, n, heard = at + len(piece), n + 1, heard + len(piece)
        judged.append(segmenter.push(piece).change)
        late = heard // FRAME - 3
        assert sum(map(len, judged)) == max(late, 0) * FRAME // 160
    segmenter.reset()
    again = segmenter.push(sound)
    np.testing.assert_allclose(np.concatenate(judged), again.change, atol=1e-5)
    assert len(again) == len(again.front) == len(again.overlap)


def test_weights_of_another_shape_are_refused(network, tmp_path):
    folder = stored(network, tmp_path / "w")
    about = json.loads((folder / "model.json").read_text())
    about["network"]["hidden"] = 32
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(WeightsError, match="model"):
        segmentation_network.load_segmentation(str(folder))
