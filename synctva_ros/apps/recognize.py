"""Media files and pictures → estimates: what the running graph does, without waiting for anything.

The classes are those of the nodes, with the nodes' defaults, so an estimate is the one that the graph would publish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.audio.stream import SAMPLE_RATE
from synctva_ros.audio.transcriber import Transcriber, TranscriberConfig
from synctva_ros.defaults import SHIPPED_WEIGHTS, TEXT_ADAPTER, UNCERTAIN_BELOW
from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.extractor import FeatureExtractor
from synctva_ros.encoders.face import (
    CROP_SIZE,
    FaceBox,
    FaceDetector,
    FaceEncoder,
    FaceObservation,
    FaceTrack,
    Image,
    readable,
)
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import (
    NANOSECONDS,
    EndedBy,
    Estimate,
    Features,
    Status,
    Transcript,
    TranscriptStatus,
    Utterance,
)
from synctva_ros.network.rolling import RollingDialogue
from synctva_ros.sources import new_stream_id
from synctva_ros.sources.files import is_picture, match_files, read_picture, read_table
from synctva_ros.sources.media import MediaFile, Picture

#: Frame of the headers, as that of a file that the graph plays.
FRAME_ID = "media"
MODALITIES = "tav"


@dataclass
class RecognizerCounters:
    """What was found so far: utterances, and files without any."""

    utterances: int = 0
    without_speech: int = 0
    without_face: int = 0


@dataclass(frozen=True)
class _Part:
    """An utterance and the faces that were seen meanwhile; without sound when it stands for a whole silent file."""

    utterance: Utterance
    frames_seen: int
    observations: list[FaceObservation]
    endpoint: float = 0.0

    @property
    def is_silent(self) -> bool:
        return not len(self.utterance.samples)

    @property
    def duration(self) -> int:
        return self.utterance.end - self.utterance.start


class _WholePicture(FaceDetector):
    """For pictures that show nothing but a face."""

    def __init__(self) -> None:
        self.name = "whole-picture"

    def detect(self, image: Image) -> list[FaceBox]:
        """The picture itself, as the only face."""
        height, width = image.shape[:2]
        return [FaceBox(0.0, 0.0, float(width), float(height), 1.0)]


class Recognizer:
    """Recognises file after file with models that are loaded once.

    Args:
        modalities: letters of those to use: t (words), a (voice), v (face).
        weights: folder of the network's weights; None for the shipped ones.
        whisper: folder or name of a faster-whisper model; empty for no words but those that are given.
        face_detector: as ``FaceDetector`` takes it.
        cropped_faces: pictures and clips show only a face, so that none has to be looked for.
        log: called with one sentence about what runs where.
        warn: called with one sentence, which names the file, for what is missing in it.

    Raises:
        ImportError: OpenCV is missing.
        ValueError: other letters, or no usable weights, detector or encoder.
    """

    def __init__(
        self,
        modalities: str = MODALITIES,
        *,
        weights: Path | None = None,
        whisper: str = "",
        face_detector: str = "",
        cropped_faces: bool = False,
        log: Callable[[str], None] = lambda sentence: None,
        warn: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        import torch

        if not modalities or set(modalities) - set(MODALITIES):
            raise ValueError(f"modalities are {modalities!r}; give letters of t (words), a (voice), v (face)")
        self.counters = RecognizerCounters()
        self._words = "t" in modalities
        self._voice = "a" in modalities
        self._warn = warn
        self._detector: FaceDetector | None = None
        face: FaceEncoder | None = None
        if "v" in modalities:
            face = FaceEncoder()
            self._detector = _WholePicture() if cropped_faces else FaceDetector(face_detector)
        # Most jobs have no words at all, and this encoder takes longest to load: the first words fetch it.
        self._extractor = FeatureExtractor(None, AudioEncoder(), face)
        self._transcriber: Transcriber | None = None
        if self._words and whisper:
            self._transcriber = Transcriber(TranscriberConfig(model=whisper), log, warn)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._dialogue = RollingDialogue.from_weights(weights or SHIPPED_WEIGHTS, device)
        log(f"weights {self._dialogue.model_id!r} run on {device}")

    def recognize(self, path: Path, text: str | None = None) -> Iterator[dict[str, Any]]:
        """Estimate the utterances of a file, which is a dialogue of its own.

        A still picture is an utterance of the face alone, and so is a whole clip with pictures but without speech.
        Where nothing is found there are no utterances, but a warning, and one more in ``counters``.

        Args:
            path: media file or picture.
            text: its words; of several utterances the longest gets them. None: Whisper is asked, if there is one.

        Yields:
            For each utterance the fields of ``Emotion`` as JSON knows them, and ``file``. Times count from the start of
            the file. ``durations`` holds what was computed and the hang-over, no ``total``: nobody waited.

        Raises:
            SourceError: there is no such file, or it cannot be read.
            ValueError: the weights do not go with the encoders.
        """
        self._dialogue.reset()
        parts = self._still(path) if is_picture(path) else self._clip(path)
        spoken: _Part | None = None
        if text is not None:
            parts = iter(together := list(parts))
            spoken = max(together, key=lambda part: part.duration, default=None)
        for part in parts:
            transcript = self._transcript(part, "" if text is None or part is not spoken else text, text is None)
            if part.is_silent and not readable(part.observations) and not (transcript and transcript.text):
                self._nothing(path, part)
                continue
            features = self._features(part, transcript)
            estimate = self._dialogue.add(features)
            self.counters.utterances += 1
            yield {"file": str(path)} | emotion_fields(estimate, features)

    def _still(self, path: Path) -> Iterator[_Part]:
        image = read_picture(path)
        faces = _Faces(self._detector)
        faces.look(0, image)
        yield _Part(_silent_utterance(new_stream_id("f"), 0), *faces.between(0, 0))

    def _clip(self, path: Path) -> Iterator[_Part]:
        notes: list[str] = []
        media = (
            MediaFile(path, warn=notes.append)
            if self._detector is not None
            else MediaFile(path, video_rate=0.0, warn=notes.append)
        )
        notes.clear()  # it says that a file without sound gives no utterance, which is not so here
        endpointer = Endpointer(warn=lambda sentence: self._warn(f"{path}: {sentence}"))
        faces = _Faces(self._detector)
        reached = 0
        for item in media.play(0):
            if isinstance(item, Picture):
                faces.look(item.stamp, item.image)
                reached = max(reached, item.stamp)
                continue
            reached = max(reached, item.stamp + round(len(item.samples) * NANOSECONDS / item.sample_rate))
            for utterance in endpointer.push(item):
                endpoint = (reached - utterance.end) / NANOSECONDS
                yield _Part(utterance, *faces.between(utterance.start, utterance.end), endpoint)
                faces.forget(utterance.end)
        for note in notes:
            self._warn(note)
        if not endpointer.counters.utterances:
            yield _Part(_silent_utterance(media.stream_id, reached), *faces.between(0, reached))

    def _transcript(self, part: _Part, text: str, ask: bool) -> Transcript | None:
        if not self._words:
            return None
        if ask:
            return self._transcriber.transcribe(part.utterance) if self._transcriber and not part.is_silent else None
        return Transcript(part.utterance.utterance_id, TranscriptStatus.OK, text) if text else None

    def _features(self, part: _Part, transcript: Transcript | None) -> Features:
        if transcript is not None and transcript.text and self._extractor.text is None:
            self._extractor.text = TextEncoder(TEXT_ADAPTER)
        heard = self._voice and not part.is_silent
        voice = self._extractor.voice(part.utterance) if heard else None
        face = self._extractor.look(part.frames_seen, part.observations)
        return self._extractor.features(part.utterance, voice, face, transcript, part.endpoint)

    def _nothing(self, path: Path, part: _Part) -> None:
        if part.frames_seen:
            self.counters.without_face += 1
            where = "it" if is_picture(path) else f"its {part.frames_seen} pictures, and no speech either"
            seen = "no face that can be read" if part.observations else "no face"
            self._warn(f"{path}: {seen} is found in {where}")
        else:
            self.counters.without_speech += 1
            self._warn(f"{path}: no speech is found in it")


class _Faces:
    """The faces in the pictures of one file; without a detector there are neither."""

    def __init__(self, detector: FaceDetector | None) -> None:
        self._track = FaceTrack(detector) if detector is not None else None
        self._is_cropped = isinstance(detector, _WholePicture)
        self._looked_at: list[tuple[int, FaceObservation | None]] = []

    def look(self, stamp: int, image: Image) -> None:
        """Take the next picture (BGR), at ``stamp`` [ns]."""
        if self._track is None:
            return
        seen = self._track.observe(stamp, image)
        if seen is not None and self._is_cropped:
            # A detector's boxes are brought to the cut and size that the encoder knows; these pictures have both.
            seen = replace(seen, crop=_square(image))
        self._looked_at.append((stamp, seen))

    def between(self, start: int, end: int) -> tuple[int, list[FaceObservation]]:
        """How many pictures there are from ``start`` to ``end`` (both included), and the face in them."""
        inside = [seen for stamp, seen in self._looked_at if start <= stamp <= end]
        return len(inside), [seen for seen in inside if seen is not None]

    def forget(self, until: int) -> None:
        """Let go of the pictures up to ``until`` [ns]."""
        self._looked_at = [(stamp, seen) for stamp, seen in self._looked_at if stamp > until]


def _square(image: Image) -> Image:
    """A BGR picture in grey, its short sides filled up; no larger than the encoder takes it."""
    import cv2

    height, width = image.shape[:2]
    down, across = max(width - height, 0), max(height - width, 0)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    grey = cv2.copyMakeBorder(
        grey, down // 2, down - down // 2, across // 2, across - across // 2, cv2.BORDER_REPLICATE
    )
    if len(grey) > CROP_SIZE:
        grey = cv2.resize(grey, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)


def _silent_utterance(stream_id: str, end: int) -> Utterance:
    """A file as one utterance without sound, from its start to ``end`` [ns]."""
    return Utterance(
        utterance_id=f"{stream_id}_0",
        stream_id=stream_id,
        first_sequence=0,
        last_sequence=0,
        start=0,
        end=end,
        stream_start=0.0,
        stream_end=end / NANOSECONDS,
        ended_by=EndedBy.END_OF_STREAM,
        samples_start=0,
        sample_rate=SAMPLE_RATE,
        samples=np.zeros(0, np.float32),
        rms=0.0,
        clipped=False,
    )


def emotion_fields(estimate: Estimate, features: Features) -> dict[str, Any]:
    """The fields of ``Emotion`` in their order, as ``ros/convert.py`` gives them to JSON, without ROS."""
    durations = features.durations | {"network": estimate.duration}
    status = Status.UNCERTAIN if estimate.confidence < UNCERTAIN_BELOW else Status.FINAL
    return {
        "header": {"stamp": _time(features.end), "frame_id": FRAME_ID},
        "start": _time(features.start),
        "utterance_id": features.utterance_id,
        "dialogue_id": estimate.dialogue_id,
        "speaker_id": features.speaker_id,
        "face_id": features.face_id,
        "person_id": features.person_id,
        "turn": estimate.turn,
        "stream_id": features.stream_id,
        "stream_start": _number(features.stream_start),
        "stream_end": _number(features.stream_end),
        "text": features.text,
        "label": estimate.label,
        "labels": list(estimate.labels),
        "probabilities": [_number(share) for share in estimate.probabilities],
        "confidence": _number(estimate.confidence),
        "status": status.name,
        "valence": None,  # not estimated
        "arousal": None,
        "modalities": int(estimate.modalities),
        "contributions": [_number(share) for share in estimate.contributions],
        "context_ids": [identity for identity, _ in estimate.context],
        "context_weights": [_number(weight) for _, weight in estimate.context],
        "stages": list(durations),
        "durations": [_number(np.float32(seconds)) for seconds in durations.values()],
        "model_id": estimate.model_id,
    }


def _time(nanoseconds: int) -> dict[str, int]:
    return {"sec": nanoseconds // NANOSECONDS, "nanosec": nanoseconds % NANOSECONDS}


def _number(value: float | np.floating[Any]) -> float | None:
    """Seven digits, which is what a float32 holds; None when it is not finite."""
    number = float(value)
    return float(f"{number:.7g}") if math.isfinite(number) else None


def read_transcripts(table: Path, files: list[Path], warn: Callable[[str], None]) -> dict[Path, str]:
    """The words of the files in a CSV table with the columns ``file`` and ``text``.

    A row names a file by its path or the end of it, such as its path in the folder, or its name alone.

    Args:
        table: the CSV file.
        files: those that may be meant.
        warn: called with one sentence for a row that means none of them.

    Raises:
        ValueError: the table is malformed, or a row may mean several files.
    """
    rows = read_table(table, "text")
    try:
        meant = match_files(rows, [str(file) for file in files])
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from error
    for name, (line, _) in rows.items():
        if name not in meant:
            warn(f"{table}, line {line}: {name} is none of the {len(files)} files")
    return {Path(file): rows[name][1].strip() for name, file in meant.items()}
