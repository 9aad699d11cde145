"""Every face in view, followed through the images of a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass

from synctva_ros.events import NANOSECONDS, ImageArray
from synctva_ros.vision.crop import SIDE, cut
from synctva_ros.vision.detector import FaceBox, FaceDetector

# Least overlap (intersection over union) of a box with the last one of its track.
_SAME_FACE = 0.2
# A track is expected to go on as it moved for at most so long [s]: nobody walks straight on for ever.
_GOES_ON = 0.5
# A track's speed is that of about so long [s]: boxes jitter by some pixels.
_STEADY = 0.15


@dataclass(frozen=True, eq=False)
class TrackedFace:
    """A face in one image.

    ``face_id`` is the same for a face as long as it is followed; ``box`` is in pixels of the image; ``quality`` is in
    [0, 1]; ``crop`` is grey, uint8 ``[side, side]``, and shows the face as FER2013 does; ``mouth_opening`` is as
    ``vision.crop.mouth_opening`` gives it, NaN where it cannot be told.
    """

    face_id: str
    box: FaceBox
    quality: float
    crop: ImageArray
    mouth_opening: float


@dataclass
class _Track:
    face_id: str
    box: FaceBox
    stamp: int
    # of the box's centre [pixels/s]
    speed: tuple[float, float] = (0.0, 0.0)

    def expected(self, stamp: int) -> FaceBox:
        """Where the face is at ``stamp`` [ns] if it moves on as it did."""
        seconds = min((stamp - self.stamp) / NANOSECONDS, _GOES_ON)
        x, y = self.box.x + self.speed[0] * seconds, self.box.y + self.speed[1] * seconds
        return FaceBox(x, y, self.box.width, self.box.height, self.box.score)

    def go_on(self, box: FaceBox, stamp: int) -> None:
        """Take the box at ``stamp`` [ns] as the track's newest."""
        seconds = (stamp - self.stamp) / NANOSECONDS
        newest = 1 - math.exp(-seconds / _STEADY)
        x = (box.x + box.width / 2 - self.box.x - self.box.width / 2) / seconds
        y = (box.y + box.height / 2 - self.box.y - self.box.height / 2) / seconds
        self.speed = self.speed[0] + newest * (x - self.speed[0]), self.speed[1] + newest * (y - self.speed[1])
        self.box, self.stamp = box, stamp


class FaceTracker:
    """Follows all faces in view, each with an id of its own (REP-155: short, starts with a letter, transient).

    A face goes on with the track that it overlaps best, where it was or where it would be by now, whoever else comes
    closer. A track that was not seen for
    ``lost_after`` seconds is over; a face there gets a new id. Ids are never used again. One tracker belongs to one
    thread.
    """

    def __init__(self, detector: FaceDetector, side: int = SIDE, lost_after: float = 1.0) -> None:
        """Start without faces.

        Args:
            detector: Finds the faces.
            side: Of the crops [pixels], as the encoder takes them.
            lost_after: Seconds without the face that end its track.

        Raises:
            ValueError: A number is not positive.
        """
        for what, value in (("side", side), ("lost_after", lost_after)):
            if not value > 0:
                raise ValueError(f"face track: {what} is {value}; give a positive number")
        self._detector = detector
        self._side = side
        self._lost_after = round(lost_after * NANOSECONDS)
        self._tracks: list[_Track] = []
        self._newest: int | None = None
        self._ids = 0

    def observe(self, stamp: int, image: ImageArray) -> list[TrackedFace]:
        """Take the next image; returns every face in it, largest first.

        Args:
            stamp: Time of the image [ns], after the previous one's.
            image: uint8, BGR ``[h, w, 3]`` or grey ``[h, w]``.

        Raises:
            ValueError: Not such an image, or the time does not advance.
        """
        if self._newest is not None and stamp <= self._newest:
            raise ValueError(
                f"face track: image at {stamp} ns after one at {self._newest} ns; drop it, or call clear() if the "
                "clock was set back"
            )
        boxes = self._detector.detect(image)
        self._newest = stamp
        faces = []
        for face_id, box in zip(self._follow(stamp, boxes), boxes, strict=True):
            looks = cut(image, box, self._side)
            faces.append(TrackedFace(face_id, box, looks.quality, looks.crop, looks.mouth_opening))
        return faces

    def clear(self) -> None:
        """Forget all faces, as after a jump of the clock; ids go on counting."""
        self._tracks.clear()
        self._newest = None

    def _follow(self, stamp: int, boxes: list[FaceBox]) -> list[str]:
        """The ids of the boxes, in their order."""
        self._tracks = [track for track in self._tracks if stamp - track.stamp <= self._lost_after]
        # The best pair first. Who was in the last image chooses before those who were hidden meanwhile: what hides a
        # face is often another one, in the very place where it is expected. Where a face is expected tells more than
        # where it was, since people cross; but who stopped or turned round is found where they were.
        pairs = [
            (track.stamp, near if near >= _SAME_FACE else 0.0, there, number, track)
            for track in self._tracks
            for number, box in enumerate(boxes)
            if max(near := _overlap(box, track.expected(stamp)), there := _overlap(box, track.box)) >= _SAME_FACE
        ]
        ids: dict[int, str] = {}
        taken: set[str] = set()
        for *_, number, track in sorted(pairs, key=lambda pair: pair[:3], reverse=True):
            if number not in ids and track.face_id not in taken:
                track.go_on(boxes[number], stamp)
                ids[number] = track.face_id
                taken.add(track.face_id)
        for number, box in enumerate(boxes):
            if number not in ids:
                self._ids += 1
                ids[number] = f"f{self._ids}"
                self._tracks.append(_Track(ids[number], box, stamp))
        return [ids[number] for number in range(len(boxes))]


def _overlap(a: FaceBox, b: FaceBox) -> float:
    """Intersection over union."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (a.area + b.area - shared)
