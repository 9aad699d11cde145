"""An utterance with its words and its pictures → ``Features``: the three encoders behind one call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import CROP_SIZE, MAX_FRAMES, FaceEncoder, FaceObservation, readable, speaker_face
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import Features, FloatArray, Transcript, Utterance


@dataclass(frozen=True)
class Voice:
    """The audio vector ``[d]`` and the seconds that it took."""

    vector: FloatArray
    duration: float


@dataclass(frozen=True)
class Face:
    """The speaker's face in the pictures of an utterance: its vector ``[d]`` and the seconds that it took.

    The vector is None, and the id empty, when no face could be read.
    """

    frames_seen: int
    frames_with_face: int = 0
    vector: FloatArray | None = None
    face_id: str = ""
    duration: float = 0.0


class FeatureExtractor:
    """Encodes utterances; voice and face do not have to wait for the words.

    Args:
        text: encoder for words, or None as long as there are none.
        audio: encoder for the voice.
        face: encoder for the face, or None to leave vision out.

    """

    def __init__(self, text: TextEncoder | None, audio: AudioEncoder, face: FaceEncoder | None) -> None:
        self.text = text
        self.audio = audio
        self.face = face

    def warm_up(self) -> None:
        """Run each encoder once, so that the first utterance is as fast as the tenth."""
        import numpy as np

        if self.text is not None:
            self.text.encode(["warm up"])
        # Not silence, which the encoder answers without its network.
        self.audio.encode(np.random.default_rng(0).normal(0.0, 0.1, 48_000).astype(np.float32), 16_000)
        if self.face is not None:
            self.face.encode_crops([np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)] * MAX_FRAMES)

    def voice(self, utterance: Utterance) -> Voice:
        """Encode the sound from start to end of speech."""
        begun = time.perf_counter()
        vector = self.audio.encode(utterance.speech, utterance.sample_rate)
        return Voice(vector, time.perf_counter() - begun)

    def look(self, frames_seen: int, observations: Sequence[FaceObservation]) -> Face:
        """Encode the face that counts as the speaker's, of ``observations`` in ``frames_seen`` pictures."""
        if self.face is None or not readable(observations):
            return Face(frames_seen, len(observations))
        begun = time.perf_counter()
        observations = speaker_face(observations)
        vector = self.face.encode(observations)
        return Face(frames_seen, len(observations), vector, observations[0].face_id, time.perf_counter() - begun)

    def features(
        self,
        utterance: Utterance,
        voice: Voice | None,
        face: Face,
        transcript: Transcript | None,
        endpoint_duration: float,
    ) -> Features:
        """Put an utterance's vectors together; a modality without evidence is missing."""
        durations = {"endpoint": endpoint_duration}
        if transcript is not None:
            durations["transcribe"] = transcript.duration
        if voice is not None:
            durations["audio"] = voice.duration
        if face.vector is not None:
            durations["vision"] = face.duration
        text_vector: FloatArray | None = None
        text = transcript.text if transcript is not None else ""
        if text and self.text is not None:
            begun = time.perf_counter()
            text_vector = self.text.encode([text])[0]
            durations["text"] = time.perf_counter() - begun
        return Features(
            utterance_id=utterance.utterance_id,
            start=utterance.start,
            end=utterance.end,
            text_vector=text_vector,
            audio_vector=None if voice is None else voice.vector,
            vision_vector=face.vector,
            text_encoder=self.text.name if self.text is not None and text_vector is not None else "",
            audio_encoder="" if voice is None else self.audio.name,
            vision_encoder=self.face.name if self.face is not None and face.vector is not None else "",
            stream_id=utterance.stream_id,
            stream_start=utterance.stream_start,
            stream_end=utterance.stream_end,
            speaker_id=utterance.speaker_id,
            face_id=face.face_id,
            text=text,
            frames_seen=face.frames_seen,
            frames_with_face=face.frames_with_face,
            ended_by=utterance.ended_by,
            durations=durations,
        )
