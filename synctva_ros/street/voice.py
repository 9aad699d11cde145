"""Utterance → what its voice tells."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from synctva_ros.encoders.protocol import AudioEncoder
from synctva_ros.events import SAMPLE_RATE, Evidence, Utterance
from synctva_ros.street.encoding import Encoding
from synctva_ros.street.stage import Log


class VoiceStage(Encoding[Utterance]):
    """The voice encoder, on the sound from start to end of speech."""

    name: ClassVar[str] = "voice"
    modality: ClassVar[str] = "audio"
    takes: ClassVar[tuple[type, ...]] = (Utterance,)

    def __init__(self, encoder: AudioEncoder, log: Log) -> None:
        super().__init__(log)
        self.encoder: AudioEncoder = encoder

    def warm_up(self) -> None:
        """Three seconds of noise; not silence, which the encoder answers without its network."""
        self.encoder.encode(np.random.default_rng(0).normal(0.0, 0.1, 3 * SAMPLE_RATE).astype(np.float32), SAMPLE_RATE)

    def work(self, event: Utterance) -> Evidence:
        """Encode."""
        speech = event.speech
        if not len(speech):
            return self.nothing(event)
        return self.encoded(event, lambda: self.encoder.encode(speech, event.sample_rate))
