"""What ``vision.crop.mouth_opening`` is worth: against the sound of real clips, and against a landmarker of 478 points.

    python benchmark/mouth.py [--scale SHARE] [--sheet FILE] [--landmarker FILE]

The clips are RAVDESS (one actor) and GRID (eleven people) in ``audio_visual`` of the folder ``SYNCTVA_DATA``. The rows
are definitions: ours, and the distance from the nose to the middle of the mouth's corners in distances of the eyes,
which is what the detector's own landmarks give. The columns:

- *speaks*: a half second in which the person speaks has a larger deviation than one in which nobody does (area under
  the ROC curve), and the medians of both.
- *own, shifted, other*: correlation of the movement with the envelope of the clip's sound; of the same sound moved by
  half of the clip; of the other clips' sound. The mouth may be up to 0.1 s ahead or behind.
- *lips*: correlation with the gap between the inner lips in MediaPipe's landmarks (mean over the clips, and the least),
  with --landmarker face_landmarker.task and the package mediapipe.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from synctva_ros.events import ImageArray
from synctva_ros.vision.crop import crop, cut, mouth_opening
from synctva_ros.vision.detector import FaceBox, create_detector

DATA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[2] / "shared/data"))
RATE = 16_000
Series = NDArray[np.float64]


@dataclass
class Clip:
    """A clip's images with their faces, and the level of its sound at each image, in [0, 1]."""

    name: str
    rate: float
    images: list[ImageArray]
    boxes: list[FaceBox]
    envelope: Series


def read(path: Path, scale: float, detect: Callable[[ImageArray], list[FaceBox]]) -> Clip:
    """Decode a clip; its images are made smaller by ``scale``."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        rate = float(stream.average_rate or 25)
        decoded = [
            (float(frame.pts * stream.time_base), frame.to_ndarray(format="bgr24")) for frame in file.decode(stream)
        ]
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = list(file.decode(audio=0))
        first = float(frames[0].pts * frames[0].time_base)
        sound = np.concatenate([part.to_ndarray()[0] for frame in frames for part in resampler.resample(frame)])
    images, boxes, levels = [], [], []
    for stamp, image in decoded:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else image
        if not (found := detect(image)):
            continue
        start = round((stamp - first) * RATE)
        heard = sound[max(0, start - 320) : start + 960]  # about an exposure
        images.append(image)
        boxes.append(found[0])
        levels.append(float(np.sqrt(np.mean(heard**2))) if len(heard) > 100 else 0.0)
    return Clip(path.name, rate, images, boxes, np.array(levels) / max(levels))


def nose_to_mouth(image: ImageArray, box: FaceBox) -> float:
    """What the five landmarks give."""
    if box.landmarks is None:
        return float("nan")
    left, right, nose, *corners = box.landmarks
    return float(np.linalg.norm(np.mean(corners, axis=0) - nose) / np.linalg.norm(right - left))


def smoothed(values: Series, count: int = 5) -> Series:
    """Running mean."""
    return np.convolve(np.pad(values, count // 2, mode="edge"), np.ones(count) / count, "valid")


def movement(values: Series) -> Series:
    """How much changes from image to image."""
    return smoothed(np.abs(np.diff(values, prepend=values[0])))


def agreement(a: Series, b: Series) -> float:
    """Largest correlation with a lag of at most three images."""
    count = min(len(a), len(b))
    pairs = [(a[max(lag, 0) : count + min(lag, 0)], b[max(-lag, 0) : count - max(lag, 0)]) for lag in range(-3, 4)]
    return max(float(np.corrcoef(x, y)[0, 1]) for x, y in pairs)


def against_sound(clips: list[Clip], series: list[Series]) -> str:
    """The columns that need nothing but the sound."""
    speaks: list[float] = []
    rests: list[float] = []
    for clip, values in zip(clips, series, strict=True):
        length = round(clip.rate / 2)
        for start in range(0, len(values) - length + 1, 3):
            loud = float((clip.envelope[start : start + length] > 0.1).mean())
            deviation = float(values[start : start + length].std())
            if loud > 0.7:
                speaks.append(deviation)
            elif loud < 0.05:
                rests.append(deviation)
    area = float(np.mean([a > b for a in speaks for b in rests]))
    own, shifted, other = [], [], []
    for clip, values in zip(clips, series, strict=True):
        moves, sound = movement(values), smoothed(clip.envelope)
        own.append(agreement(moves, sound))
        shifted.append(agreement(moves, np.roll(sound, len(sound) // 2)))
        other += [agreement(moves, smoothed(another.envelope)) for another in clips if another is not clip]
    return (
        f"speaks {area:.3f} ({np.median(speaks):.4f} in {len(speaks)}, {np.median(rests):.4f} in {len(rests)})  "
        f"own {np.mean(own):.2f} shifted {np.mean(shifted):.2f} other {np.mean(other):.2f}"
    )


def lip_gaps(clips: list[Clip], model: Path) -> list[Series]:
    """Gap between the inner lips in distances of the eyes, as MediaPipe's landmarks have it."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(base_options=BaseOptions(model_asset_path=str(model)))
    landmarker = vision.FaceLandmarker.create_from_options(options)

    def gap(image: ImageArray) -> float:
        rgb = np.ascontiguousarray(image[:, :, ::-1])
        found = landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb)).face_landmarks
        if not found:
            return float("nan")
        points = np.array([[point.x * image.shape[1], point.y * image.shape[0]] for point in found[0]])
        eyes = np.linalg.norm(points[[33, 133]].mean(0) - points[[362, 263]].mean(0))
        return float(np.linalg.norm(points[13] - points[14]) / eyes)

    return [np.array([gap(image) for image in clip.images]) for clip in clips]


def against_lips(series: list[Series], gaps: list[Series]) -> str:
    """The column that needs the landmarker."""
    known = [np.isfinite(values) & np.isfinite(gap) for values, gap in zip(series, gaps, strict=True)]
    found = [
        float(np.corrcoef(values[where], gap[where])[0, 1])
        for values, gap, where in zip(series, gaps, known, strict=True)
    ]
    return f"  lips {np.mean(found):.2f}, least {min(found):.2f}"


def sheet(clips: list[Clip], series: list[Series], columns: int = 10) -> ImageArray:
    """A row a clip: its images from the least to the most open, with the figures."""
    rows = []
    for clip, values in zip(clips, series, strict=True):
        order = np.argsort(values)
        shown = []
        for place in order[np.linspace(0, len(order) - 1, columns).astype(int)]:
            face = crop(clip.images[place], clip.boxes[place], 96)
            shown.append(cv2.putText(face, f"{values[place]:.2f}", (2, 12), 0, 0.4, 255, 1))
        rows.append(np.hstack(shown))
    return np.asarray(np.vstack(rows), np.uint8)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Judge the mouth opening by sound and by landmarks.")
    parser.add_argument("--scale", type=float, default=1.0, metavar="SHARE", help="make the images smaller by this")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write an image with faces sorted by their opening")
    parser.add_argument("--landmarker", type=Path, metavar="FILE", help="face_landmarker.task; needs mediapipe")
    parser.add_argument("--face-detector", default="", metavar="FILE", help="YuNet's file; else the one at hand")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    folder = DATA / "audio_visual"
    corpora = {
        "RAVDESS": sorted((folder / "ravdess_actor01_full").glob("*.mp4")),
        "GRID": sorted((folder / "grid").glob("*.mpg")),
    }
    if not all(corpora.values()):
        raise SystemExit(f"there are no clips in {folder}: set SYNCTVA_DATA to the folder that holds audio_visual/")
    detector = create_detector(arguments.face_detector)
    measures: dict[str, Callable[[ImageArray, FaceBox], float]] = {
        "darkness": mouth_opening,
        "landmarks": nose_to_mouth,
    }
    sheets = []
    for name, paths in corpora.items():
        clips = [read(path, arguments.scale, detector.detect) for path in paths]
        sides = [max(box.width, box.height) for clip in clips for box in clip.boxes]
        print(f"{name}: {len(clips)} clips, {len(sides)} images, faces {np.median(sides):.0f} pixels high")
        gaps = lip_gaps(clips, arguments.landmarker) if arguments.landmarker else None
        for measure, function in measures.items():
            series = [
                np.array([function(image, box) for image, box in zip(clip.images, clip.boxes, strict=True)])
                for clip in clips
            ]
            unknown = float(np.mean(np.isnan(np.concatenate(series))))
            if unknown:
                print(f"  {measure:<10} unknown {unknown:.0%}")
                continue
            print(f"  {measure:<10} {against_sound(clips, series)}{against_lips(series, gaps) if gaps else ''}")
            if measure == "darkness":
                sheets.append(sheet(clips, series))
        if gaps:
            print(f"  {'landmarker':<10} {against_sound(clips, gaps)}")
    if arguments.sheet and sheets:
        cv2.imwrite(str(arguments.sheet), np.vstack(sheets))
    image, box = clips[0].images[0], clips[0].boxes[0]
    timed: dict[str, Callable[[], Any]] = {
        "mouth opening alone": lambda: mouth_opening(image, box),
        "crop, quality and mouth opening": lambda: cut(image, box),
    }
    for name, call in timed.items():
        spent = []
        for _ in range(500):
            begun = time.perf_counter()
            call()
            spent.append(time.perf_counter() - begun)
        print(f"{name}: {1000 * min(spent):.3f} ms")


if __name__ == "__main__":
    main()
