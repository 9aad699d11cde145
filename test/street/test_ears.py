"""The ears as they are by default, on the demo's dialogue: whatever comes before, and however loud it is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from synctva_ros.config import DEMO, Turns
from synctva_ros.events import AudioChunk, Utterance
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.playback import Sentences
from synctva_ros.street.table import STREET

RATE = 16_000
SCRIPT = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]


@pytest.mark.parametrize(("before", "gain"), [(264, 0.94), (9846, 1.0)])
def test_a_little_silence_before_and_the_gain_change_no_turn(before: int, gain: float) -> None:
    """With these the last words of a sentence were once somebody else's."""
    played = MediaFile(DEMO / "dialogue.flac").play(0)
    dialogue = np.concatenate([chunk.samples for chunk in played if isinstance(chunk, AudioChunk)])
    sound = np.concatenate([np.zeros((before, 1), np.float32), np.float32(gain) * dialogue])
    (stage,) = STREET["utterance"](Turns(speculate=False, provisional_interval=0.0), Sentences(print, print))
    found: list[Utterance] = []
    for number, first in enumerate(range(0, len(sound), 480)):
        stamp = round(first / RATE * 1e9)
        found += stage.process(AudioChunk("m", number, stamp, RATE, sound[first : first + 480]))
    found = [one for one in [*found, *stage.flush()] if one.is_final]
    assert [one.stream_end - before / RATE for one in found] == pytest.approx(
        [turn["end"] for turn in SCRIPT], abs=0.05
    )
    assert len({one.speaker_id for one in found}) == 2
