"""Utterance, words, voice and faces, in whatever order they come → features, each as early as it can be."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from synctva_ros.config import Fusion
from synctva_ros.events import (
    MODALITIES,
    NANOSECONDS,
    EndedBy,
    Evidence,
    Face,
    Faces,
    Features,
    FloatArray,
    Utterance,
)
from synctva_ros.street.stage import REMEMBERED, Join, Log, State, Ticket
from synctva_ros.vision.pooling import pool

#: Wait at most so long for the images of an utterance to be looked at [s]; slower cameras are not waited for.
FACE_TIMEOUT = 0.5
#: Images that come in no faster than this have stopped [ns].
STOPPED = NANOSECONDS
#: Images whose stamps are further from those of the sound than this have another clock [s].
OTHER_CLOCK = 5.0
#: Reports that are no older than this have just come [s].
JUST = 2.0
#: Reports of faces that are remembered at most.
MOST_REPORTS = 12_000


@dataclass(frozen=True)
class _Seen:
    """The speaker's face in the images of an utterance."""

    images: int
    images_with_face: int = 0
    vector: FloatArray | None = None
    encoder: str = ""
    face_id: str = ""
    duration: float = 0.0


class FusionStage(Join[Utterance]):
    """Waits for what belongs to an utterance and puts it together.

    What a pause is taken for waits for its words, and if the pause holds, the utterance has all that it needs. Words
    count for the utterance whose end they name, or, if they are final, for the utterance whatever its end.

    Args:
        config: timeouts and the point that is attended to.
        log: for what comes too late.
    """

    name: ClassVar[str] = "fusion"
    takes: ClassVar[tuple[type, ...]] = (Utterance, Evidence, Faces)
    principal: ClassVar[type] = Utterance

    def __init__(self, config: Fusion, log: Log) -> None:
        super().__init__(log)
        self._config = config
        # By utterance and modality, and by the end of what it is of [ns]; None: of the final utterance.
        self._evidence: OrderedDict[tuple[str, str, int | None], Evidence] = OrderedDict()
        self._encoders = {"text": config.text_encoder, "audio": config.audio_encoder}
        self._reports: deque[Faces] = deque()  # by their stamps
        self._came = float("-inf")  # when the last report came, on the steady clock [s]
        self._apart = 0.0  # how far the images' stamps were behind those of the sound, when both came last [s]
        self.counts.update({"utterances": 0, "without words in time": 0})

    def reset(self) -> None:
        """Forget all evidence."""
        super().reset()
        self._evidence.clear()
        self._reports.clear()

    def keep(self, event: Evidence | Faces) -> None:
        """Remember a report of faces, or what a modality tells."""
        if isinstance(event, Evidence):
            self._evidence[event.utterance_id, event.modality, None if event.is_final else event.end] = event
            while len(self._evidence) > len(MODALITIES) * REMEMBERED:
                self._evidence.popitem(last=False)
            return
        self._came = time.monotonic()
        if self._reports and event.stamp < self._reports[-1].stamp - STOPPED:
            self._reports.clear()  # the clock was set back, or a recording is played again
        place = len(self._reports)
        while place and self._reports[place - 1].stamp > event.stamp:
            place -= 1
        if place and self._reports[place - 1].stamp == event.stamp:
            place -= 1
            del self._reports[place]  # told again by a node that was activated again
        self._reports.insert(place, event)
        oldest = self._reports[-1].stamp - self._config.face_memory * NANOSECONDS
        while len(self._reports) > MOST_REPORTS or self._reports[0].stamp < oldest:
            self._reports.popleft()

    def missing(self, ticket: Ticket[Utterance]) -> float:
        """Words may be as late as the parameter says, faces half a second; nothing is awaited while someone speaks."""
        utterance = ticket.event
        if utterance.ended_by == EndedBy.SPEAKING and not utterance.is_final:
            return 0.0
        wait = 0.0
        if any(self._is_awaited(utterance, modality) for modality in self._encoders):
            wait = self._config.transcript_timeout
        return max(wait, FACE_TIMEOUT if self._is_behind(utterance.end) else 0.0)

    def join(self, event: Utterance) -> Features:
        """Put together what is there; a modality without evidence is missing."""
        words, voice = (self._told(event, modality) for modality in self._encoders)
        if event.is_final:
            self.counts["utterances"] += 1
            if self._reports and time.monotonic() - self._came < JUST:
                self._apart = (event.end - self._reports[-1].stamp) / NANOSECONDS
            if self._is_awaited(event, "text"):
                self.counts["without words in time"] += 1
                self.log.warning(
                    f"no transcript of {event.utterance_id} within {self._config.transcript_timeout:g} s; it goes on "
                    "without words"
                )
        seen = self._looked(event)
        work = {} if words is None else dict(words.work)
        work |= {} if voice is None else voice.work
        work |= {} if seen.vector is None else {"vision": seen.duration}
        return replace(
            self.nothing(event),
            text_vector=None if words is None else words.vector,
            audio_vector=None if voice is None else voice.vector,
            vision_vector=seen.vector,
            text_encoder="" if words is None else words.encoder,
            audio_encoder="" if voice is None else voice.encoder,
            vision_encoder=seen.encoder,
            face_id=seen.face_id,
            text="" if words is None else words.text,
            frames_seen=seen.images,
            frames_with_face=seen.images_with_face,
            work=work,
        )

    def nothing(self, event: Utterance) -> Features:
        """The utterance without any modality."""
        return Features(
            utterance_id=event.utterance_id,
            start=event.start,
            end=event.end,
            stream_id=event.stream_id,
            stream_start=event.stream_start,
            stream_end=event.stream_end,
            speaker_id=event.speaker_id,
            person_id=event.person_id,
            overlap=event.overlap,
            ended_by=event.ended_by,
            frame_id=event.frame_id,
            is_final=event.is_final,
            durations=event.durations,
        )

    def lacks(self, now: float) -> dict[str, State]:
        """Images of another clock than the sound's."""
        if abs(self._apart) <= OTHER_CLOCK:
            return {}
        where = f"{abs(self._apart):.1f} s {'behind' if self._apart > 0 else 'ahead of'}"
        sentence = (
            f"the stamps of the images are {where} those of the sound, so no face is used: give both the same clock"
        )
        return {"clock": State(1, sentence)}

    def forget(self, identity: str) -> None:
        """Let go of what it consisted of."""
        for key in [key for key in self._evidence if key[0] == identity]:
            del self._evidence[key]

    def _is_awaited(self, utterance: Utterance, modality: str) -> bool:
        """Whether a modality that is encoded here may still come."""
        return bool(self._encoders[modality]) and self._told(utterance, modality) is None and self.expects(modality)

    def _awaits(self, modality: str) -> bool:
        """Whether somebody sends it; transcripts are of no use without an encoder for words."""
        return self.expects(modality) and bool(modality != "text" or self._config.text_encoder)

    def _told(self, utterance: Utterance, modality: str) -> Evidence | None:
        final = self._evidence.get((utterance.utterance_id, modality, None))
        return final or self._evidence.get((utterance.utterance_id, modality, utterance.end))

    # --- faces

    def _is_behind(self, end: int) -> bool:
        """Whether images until ``end`` [ns] may still be looked at."""
        if not (self.expects("vision") and len(self._reports) > 1):
            return False
        before, newest = self._reports[-2].stamp, self._reports[-1].stamp
        is_slow = newest - before > FACE_TIMEOUT * NANOSECONDS
        return not is_slow and end - STOPPED < newest < end

    def _looked(self, utterance: Utterance) -> _Seen:
        try:
            return self._look(utterance)
        except Exception as error:  # words and voice are worth something without the face
            self.report(error, f" on the face of utterance {utterance.utterance_id}")
            return _Seen(0)

    def _look(self, utterance: Utterance) -> _Seen:
        """The face that counts as the speaker's, in the images from start to end."""
        reports = [one for one in self._reports if one.looked_at and utterance.start <= one.stamp <= utterance.end]
        track = speakers_track(reports, self._config.attend_x, self._config.attend_y)
        readable = [(report, face) for report, face in track if face.expression is not None]
        # Vectors of two encoders have no mean: the camera's node was started anew with another one.
        readable = [(report, face) for report, face in readable if report.encoder == readable[-1][0].encoder]
        if not readable:
            return _Seen(len(reports), len(track))
        vector = pool(
            [report.stamp for report, _ in readable],
            [face.quality for _, face in readable],
            [face.expression for _, face in readable if face.expression is not None],
        )
        spent = sum(report.duration for report in reports)
        return _Seen(len(reports), len(track), vector, readable[0][0].encoder, readable[0][1].face_id, spent)


def speakers_track(reports: Sequence[Faces], x: float = -1.0, y: float = -1.0) -> list[tuple[Faces, Face]]:
    """The face that counts as the speaker's, image by image.

    It is the one that fills most of the images taken together; or, of those that are in at least half as many images as
    any other, the one nearest to ``x`` and ``y``, in shares of the image, of which a negative one does not count.
    """
    tracks: dict[str, list[tuple[Faces, Face]]] = {}
    for report in reports:
        for face in report.faces:
            tracks.setdefault(face.face_id, []).append((report, face))
    if not tracks:
        return []
    if x < 0 and y < 0:
        return max(tracks.values(), key=lambda track: sum(face.area for _, face in track))
    longest = max(map(len, tracks.values()))
    often = [track for track in tracks.values() if 2 * len(track) >= longest]

    def distance(track: list[tuple[Faces, Face]]) -> float:
        across = [face.x + face.width / 2 - x for _, face in track] if x >= 0 else [0.0]
        down = [face.y + face.height / 2 - y for _, face in track] if y >= 0 else [0.0]
        return float(np.mean(np.square(across)) + np.mean(np.square(down)))

    return min(often, key=distance)
