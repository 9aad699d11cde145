"""A camera through OpenCV's ``VideoCapture``, or a video or a still image in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros import config
from synctva_ros.events import NANOSECONDS, Image, ImageArray
from synctva_ros.sources.device import Backoff, Device
from synctva_ros.sources.media import MediaFile
from synctva_ros.sources.microphone import SourceError

#: A camera in the network that does not answer, or stops sending, is given up after this time [s].
ANSWER_AFTER = 5.0
#: No video is faster [Hz].
MAX_RATE = 1000.0


@dataclass
class CameraCounters:
    """What happened so far, for diagnostics."""

    frames: int = 0
    reconnects: int = 0


class Camera(Device):
    """Reads images on a thread of its own until stopped, and opens the device again when it was lost.

    Args:
        config: device, size, rate and frame; a video is repeated at its end. The rate may be changed at any time.
        clock: the node's time [ns].
        on_image: called with each image from the camera's thread.
        log: called with one sentence when the device is open.
        warn: called with one sentence when the device is lost or refused.

    The stamp is taken when OpenCV hands the image over, the closest to the exposure that all its back ends give.

    """

    def __init__(
        self,
        config: config.Camera,
        *,
        clock: Callable[[], int],
        on_image: Callable[[Image], None],
        log: Callable[[str], object],
        warn: Callable[[str], object],
    ) -> None:
        super().__init__("camera", clock, log, warn)
        device = config.device
        self._device: str | int = int(device) if device.isdigit() else device
        self._is_file = not device.isdigit() and Path(device).is_file()
        self._config = config
        self._on_image = on_image
        self._said: set[str] = set()
        self.counters = CameraCounters()

    @property
    def _period(self) -> float:
        return 1.0 / self._config.rate

    def _run(self, stop: threading.Event) -> None:
        import cv2

        backoff = Backoff(stop)
        is_still = self._is_file and cv2.haveImageReader(str(self._device))
        still = cv2.imread(str(self._device)) if is_still else None
        while not stop.is_set():
            if still is not None:
                self.connected = True
                self._give(np.asarray(still, np.uint8))
                stop.wait(self._period)
                continue
            refused = f"camera {self._device!r} cannot be opened"
            if self._is_file:
                try:
                    given = self._play(backoff, stop)
                except SourceError as error:
                    given, refused = False, str(error)
            else:
                capture = self._open()
                try:
                    given = self._read(capture, backoff, stop)
                finally:
                    capture.release()
            if stop.is_set() or (self._is_file and given):
                continue
            self.counters.reconnects += 1
            self._lose(f"camera {self._device!r} was lost" if given else refused, backoff)

    def _play(self, backoff: Backoff, stop: threading.Event) -> bool:
        """Give the images of a video on at its own speed; return whether there was one."""
        media = MediaFile(str(self._device), video_rate=MAX_RATE, warn=self._say_once, needs_sound=False)
        begun = next_due = time.monotonic()
        length = 0.0  # of the images so far, each as long as the one before [s]
        last = -1.0
        for image in media.images(0):
            at = image.stamp / NANOSECONDS
            length, last = at + (at - last if last >= 0.0 else 1.0 / 25.0), at
            if stop.wait(begun + at - time.monotonic()):
                return True
            if begun + at >= next_due - 1e-3:
                self._opened(image.pixels, backoff)
                self._give(image.pixels)
                next_due = max(next_due + self._period, begun + at)
        stop.wait(begun + length - time.monotonic())
        return last >= 0.0

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:  # a video is repeated
            self._said.add(sentence)
            self._warn(sentence)

    def _opened(self, image: ImageArray, backoff: Backoff) -> None:
        if not self.connected:
            self.connected = True
            backoff.reset()
            self._log(f"camera {self._device!r} is open: {image.shape[1]}x{image.shape[0]}")

    def _open(self) -> Any:
        import cv2

        if "://" not in str(self._device):
            return cv2.VideoCapture(self._device)
        wait = round(1000 * ANSWER_AFTER)  # else OpenCV waits for half a minute
        return cv2.VideoCapture(
            self._device, cv2.CAP_ANY, [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
        )

    def _read(self, capture: Any, backoff: Backoff, stop: threading.Event) -> bool:
        """Give images on until there are none; return whether there was one."""
        import cv2

        if stop.is_set() or not capture.isOpened():
            return False
        if self._config.width and self._config.height:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._config.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._config.height)
        given = False
        next_due = time.monotonic()
        while not stop.is_set() and capture.grab() and not stop.is_set():
            now = time.monotonic()
            if now >= next_due:
                ok, image = capture.retrieve()
                if not ok:
                    break
                self._opened(image, backoff)
                self._give(image)
                given = True
                next_due = max(next_due + self._period, now)
        return given

    def _give(self, image: ImageArray) -> None:
        self.counters.frames += 1
        self._on_image(Image(self._clock(), image, self._config.frame_id))
