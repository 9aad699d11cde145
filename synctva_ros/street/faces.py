"""Image → the faces in it, each with its track and its expression."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from synctva_ros.config import FaceFinder
from synctva_ros.encoders.protocol import FaceEncoder
from synctva_ros.events import NANOSECONDS, Face, Faces, FloatArray, Image, ImageArray
from synctva_ros.plural import counted
from synctva_ros.street.stage import Log, Stage, State
from synctva_ros.vision.crop import LEAST_QUALITY
from synctva_ros.vision.detector import FaceDetector, WholeImage
from synctva_ros.vision.tracks import FaceTracker, TrackedFace

#: An image this much older than the newest one came late; if it is older still, the clock was set back [ns].
LATE = NANOSECONDS
#: Without images for so long, a camera has stopped [s].
NO_IMAGES = 5.0
#: Without a face for so long it is worth a line [s].
NO_FACE = 60.0
#: Expressions of so many faces are looked at, the largest ones.
MOST_EXPRESSIONS = 8
#: With less difference (root mean square of two crops, each with deviation 1) a face expresses the same: what the
#: encoder makes of it moves by 0.1 to 0.3 then, where its numbers differ by several between expressions.
SAME_LOOK = 0.1


class FacesStage(Stage):
    """Finds and follows all faces, and looks at the expression of those in which one can be read."""

    name: ClassVar[str] = "faces"
    modality: ClassVar[str] = "vision"
    takes: ClassVar[tuple[type, ...]] = (Image,)

    def __init__(self, config: FaceFinder, detector: FaceDetector | WholeImage, encoder: FaceEncoder, log: Log) -> None:
        super().__init__(log)
        self._config = config
        self.encoder = encoder
        self._tracker = FaceTracker(detector, encoder.side)
        self._newest: int | None = None
        self._in_view = 0
        self._looks: dict[str, _Look] = {}  # of the tracks in view, the last one that was encoded
        self._came = self._seen = self._read = float(
            "-inf"
        )  # when there was an image, a face, one that can be read [s]
        self.counts.update(images=0, late=0)

    def warm_up(self) -> None:
        """One grey face."""
        self.encoder.encode([np.zeros((self.encoder.side, self.encoder.side), np.uint8)])

    def reset(self) -> None:
        """Forget all faces."""
        super().reset()
        self._tracker.clear()
        self._looks.clear()
        self._newest = None

    def is_over(self, event: Any) -> bool:
        """Images belong to no utterance."""
        return False

    def process(self, event: Image) -> Iterator[Faces]:
        """Look at an image, unless it came too soon after the last one, or late."""
        begun, now = time.perf_counter(), time.monotonic()
        if now - self._came > NO_IMAGES:
            self._seen = self._read = now
        self._came = now
        if self._newest is not None:
            ahead = event.stamp - self._newest
            # A camera that gives no more images than asked for does not keep time: none of them shall be left out.
            if 0 <= ahead < 0.8 / self._config.face_rate * NANOSECONDS:
                return iter(self.without(event))
            if -LATE < ahead < 0:
                self.counts["late"] += 1
                return iter(self.without(event))
            if ahead < 0:
                self._tracker.clear()
        self._newest = event.stamp
        self.counts["images"] += 1
        pixels = event.pixels
        height, width = pixels.shape[:2]
        found = self._tracker.observe(event.stamp, pixels)
        self._in_view = len(found)
        self._seen = now if found else self._seen
        self._read = now if any(face.quality >= LEAST_QUALITY for face in found) else self._read
        expressions = self._expressions(event.stamp, found)
        faces = tuple(_face(tracked, expressions.get(number), width, height) for number, tracked in enumerate(found))
        spent = time.perf_counter() - begun
        return iter([Faces(event.stamp, True, faces, height, width, self.encoder.name, spent, event.frame_id)])

    def without(self, event: Image) -> Sequence[Faces]:
        """Nobody looked."""
        return [Faces(event.stamp, False, frame_id=event.frame_id)]

    def state(self) -> State:
        """How many faces are in view."""
        state = super().state()
        return (
            state
            if state.level
            else State(0, f"{counted(self._in_view, 'face')} in view" if self._in_view else "no face in view")
        )

    def lacks(self, now: float) -> dict[str, State]:
        """Images that have stopped; a face, or one that can be read, for long."""
        if self._came == float("-inf"):
            return {}
        if now - self._came > NO_IMAGES:
            return {
                "images": State(
                    1, f"no image has come for {NO_IMAGES:g} s: is the camera still there and its node active?"
                )
            }
        if now - self._seen > NO_FACE:
            return {"face": State(0, f"no face has been in view for {NO_FACE:g} s")}
        if now - self._read > NO_FACE:
            sentence = f"no face could be read for {NO_FACE:g} s: they are too far away, dark, blurred or turned away"
            return {"face": State(0, sentence)}
        return {}

    def _expressions(self, stamp: int, found: Sequence[TrackedFace]) -> dict[int, FloatArray]:
        """What each of the faces expresses that can be read, as often as the parameter says."""
        readable = [number for number, face in enumerate(found) if face.quality >= LEAST_QUALITY][:MOST_EXPRESSIONS]
        crops = {number: _standard(found[number].crop) for number in readable}
        expressions: dict[int, FloatArray] = {}
        new: list[int] = []
        for number in readable:
            look = self._looks.get(found[number].face_id)
            if look is None or stamp - look.stamp >= 0.8 / self._config.expression_rate * NANOSECONDS:
                if look is not None and np.sqrt(np.mean(np.square(crops[number] - look.crop))) < SAME_LOOK:
                    expressions[number] = look.expression
                else:
                    new.append(number)
        try:
            if new:
                encoded = self.encoder.encode([found[number].crop for number in new])
                expressions |= dict(zip(new, encoded, strict=True))
            self.succeeded()
        except Exception as error:  # where the faces are is worth knowing all the same
            self.report(error)
        for number in new:
            if number in expressions:
                self._looks[found[number].face_id] = _Look(stamp, crops[number], expressions[number])
        in_view = {face.face_id for face in found}
        self._looks = {name: look for name, look in self._looks.items() if name in in_view}
        return expressions


@dataclass(frozen=True)
class _Look:
    """A face that was encoded: when [ns], its crop with mean 0 and deviation 1, and what it expressed."""

    stamp: int
    crop: FloatArray
    expression: FloatArray


def _standard(crop: ImageArray) -> FloatArray:
    values = crop.astype(np.float32)
    values -= values.mean()
    return values / max(float(values.std()), 1.0)


def _face(tracked: TrackedFace, expression: FloatArray | None, width: int, height: int) -> Face:
    box, size = tracked.box, np.array([width, height], np.float32)
    return Face(
        face_id=tracked.face_id,
        x=box.x / width,
        y=box.y / height,
        width=box.width / width,
        height=box.height / height,
        score=box.score,
        quality=tracked.quality,
        landmarks=None if box.landmarks is None else box.landmarks / size,
        expression=expression,
        mouth_opening=tracked.mouth_opening,
    )
