"""A camera, a video or a still image through OpenCV's ``VideoCapture``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros import config
from synctva_ros.events import Image, ImageArray
from synctva_ros.sources.device import Backoff, Device

#: A camera in the network that does not answer, or stops sending, is given up after this time [s].
ANSWER_AFTER = 5.0


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
        self.counters = CameraCounters()

    @property
    def _period(self) -> float:
        return 1.0 / self._config.rate

    def _run(self, stop: threading.Event) -> None:
        import cv2

        backoff = Backoff(stop)
        still = cv2.imread(str(self._device)) if self._is_file and cv2.haveImageReader(str(self._device)) else None
        while not stop.is_set():
            if still is not None:
                self.connected = True
                self._give(np.asarray(still, np.uint8))
                stop.wait(self._period)
                continue
            capture = self._open()
            try:
                given = self._read(capture, backoff, stop)
            finally:
                capture.release()
            if stop.is_set() or (self._is_file and given):
                continue
            self.connected = False
            self.counters.reconnects += 1
            what = "was lost" if given else "cannot be opened"
            self._warn(f"camera {self._device!r} {what}; next attempt in {backoff.seconds:g} s")
            backoff.wait()

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
        # A file must be slowed down to its own speed; a camera is as fast as it is.
        file_period = 1.0 / (capture.get(cv2.CAP_PROP_FPS) or 25.0) if self._is_file else 0.0
        given = False
        next_due = next_frame = time.monotonic()
        while not stop.is_set() and capture.grab() and not stop.is_set():
            now = time.monotonic()
            if now >= next_due:
                ok, image = capture.retrieve()
                if not ok:
                    break
                if not self.connected:
                    self.connected = True
                    backoff.reset()
                    self._log(f"camera {self._device!r} is open: {image.shape[1]}x{image.shape[0]}")
                self._give(image)
                given = True
                next_due = max(next_due + self._period, now)
            if file_period:
                next_frame = max(next_frame + file_period, now)  # decoding takes a part of the period
                stop.wait(next_frame - time.monotonic())
        return given

    def _give(self, image: ImageArray) -> None:
        self.counters.frames += 1
        self._on_image(Image(self._clock(), image, self._config.frame_id))
