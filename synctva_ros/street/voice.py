"""Utterance → what its voice tells, of a stranger or of somebody who has been heard before."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from synctva_ros.encoders.protocol import AudioEncoder, PersonalAudioEncoder
from synctva_ros.events import SAMPLE_RATE, Evidence, FloatArray, Utterance
from synctva_ros.street.encoding import Encoding
from synctva_ros.street.stage import REMEMBERED, Log

#: Of so many people, and of so many voices without a name, it is known how they usually speak.
MOST_PEOPLE, MOST_VOICES = 64, 32


class VoiceStage(Encoding[Utterance]):
    """The voice encoder, on the sound from start to end of speech.

    Where the encoder makes more of people whom it knows, what is usual for a voice is kept until the dialogue is over,
    and for a person with a name as long as the stage lives; nothing is written anywhere.
    """

    name: ClassVar[str] = "voice"
    modality: ClassVar[str] = "audio"
    takes: ClassVar[tuple[type, ...]] = (Utterance,)

    def __init__(self, encoder: AudioEncoder, log: Log) -> None:
        super().__init__(log)
        self.encoder: AudioEncoder = encoder
        self._personal = encoder if isinstance(encoder, PersonalAudioEncoder) else None
        self._people: OrderedDict[str, Any] = OrderedDict()
        self._voices: OrderedDict[str, Any] = OrderedDict()
        self._told: OrderedDict[str, FloatArray] = OrderedDict()  # of the newest utterances

    def reset(self) -> None:
        """The voices are others from here on; people with a name are who they were."""
        super().reset()
        self._voices.clear()
        self._told.clear()

    def warm_up(self) -> None:
        """Three seconds of noise; not silence, which the encoder answers without its network."""
        self.encoder.encode(np.random.default_rng(0).normal(0.0, 0.1, 3 * SAMPLE_RATE).astype(np.float32), SAMPLE_RATE)

    def work(self, event: Utterance) -> Evidence:
        """Encode."""
        speech, personal = event.speech, self._personal
        if not len(speech):
            return self.nothing(event)
        if personal is None:
            return self.encoded(event, lambda: self.encoder.encode(speech, event.sample_rate))
        begun = time.perf_counter()
        told = personal.describe(speech, event.sample_rate)
        if told is None:
            return self.evidence(event, None, {self.modality: time.perf_counter() - begun})
        self._told[event.utterance_id] = told
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        vector = personal.judge(told, personal.stranger())
        return self.evidence(event, vector, {self.modality: time.perf_counter() - begun})

    def answer(self, event: Utterance, result: Evidence) -> Iterator[Evidence]:
        """What was found; whose voice it is may have been learned since it was looked for."""
        told = self._told.get(event.utterance_id)
        if self._personal is not None and told is not None and result.vector is not None:
            usual = self._usual_of(event)
            if usual is not None:
                result = replace(result, vector=self._personal.judge(told, usual))
                if event.is_final:
                    self._personal.remember(told, usual)
            if event.is_final:
                del self._told[event.utterance_id]
        yield from super().answer(event, result)

    def _usual_of(self, event: Utterance) -> Any:
        """What is known of who speaks; None if that is not known."""
        assert self._personal is not None
        kept, name, most = self._people, event.person_id, MOST_PEOPLE
        if not name:
            kept, name, most = self._voices, event.speaker_id, MOST_VOICES
        if not name:
            return None
        usual = kept.pop(name, None) or self._personal.stranger()
        kept[name] = usual
        while len(kept) > most:
            kept.popitem(last=False)
        return usual
