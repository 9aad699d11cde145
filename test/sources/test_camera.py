"""Cameras: still pictures, videos, devices that are not there or die."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from synctva_ros.sources import camera
from synctva_ros.sources.backoff import Backoff
from synctva_ros.sources.camera import Camera

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 48, 64


def make(device, rate=50.0, width=0, height=0):
    pictures, reports = [], []
    made = Camera(
        str(device),
        width,
        height,
        rate,
        time.monotonic_ns,
        lambda stamp, image: pictures.append((stamp / 1e9, image)),
        reports.append,
        reports.append,
    )
    return made, pictures, reports


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr(camera, "Backoff", lambda stop: Backoff(stop, 0.02, 0.08))


def until(condition, seconds=15.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def stop_quickly(made):
    begun = time.monotonic()
    made.stop()
    assert time.monotonic() - begun < 0.5
    assert not made.connected
    assert not any(thread.name == "camera" for thread in threading.enumerate())


def gaps(pictures):
    return [after[0] - before[0] for before, after in pairwise(pictures)]


def test_a_still_picture_is_repeated_at_the_rate(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), image)
    made, pictures, _ = make(path, rate=40.0)
    made.start()
    until(lambda: len(pictures) >= 10)
    assert made.connected
    stop_quickly(made)
    assert all((picture == image).all() for _, picture in pictures)
    assert min(gaps(pictures)) >= 1 / 40 - 1e-3
    assert made.counters.frames == len(pictures)


@pytest.fixture
def video(tmp_path):
    """Ten pictures at 50 Hz that grow brighter."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50.0, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for number in range(10):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_a_video_is_played_at_its_own_speed_and_again_from_its_start(video):
    made, pictures, reports = make(video, rate=100.0)
    made.start()
    until(lambda: len(pictures) >= 25)
    stop_quickly(made)
    numbers = [round(float(image.mean()) / 20) for _, image in pictures]
    assert numbers == [number % 10 for number in range(len(numbers))]
    within = np.array(gaps(pictures[:10]))
    assert np.median(within) == pytest.approx(0.02, abs=0.006)
    assert len(reports) == 1  # nothing is said when it begins again
    assert f"{WIDTH}x{HEIGHT}" in reports[0]
    assert made.counters.reconnects == 0


def test_of_a_fast_video_no_more_pictures_are_given_on_than_asked_for(video):
    made, pictures, _ = make(video, rate=10.0)
    made.start()
    until(lambda: len(pictures) >= 5)
    stop_quickly(made)
    assert np.median(gaps(pictures)) == pytest.approx(0.1, abs=0.03)


def test_a_missing_device_is_reported_and_tried_again_ever_later(tmp_path, short_waits):
    made, pictures, reports = make(tmp_path / "no-such-camera")
    made.start()
    until(lambda: len(reports) >= 4)
    stop_quickly(made)
    assert pictures == []
    assert made.counters.reconnects == len(reports)
    for report, wait in zip(reports, ("0.02", "0.04", "0.08", "0.08"), strict=False):
        assert report.endswith(f"cannot be opened; next attempt in {wait} s")
        assert "no-such-camera" in report


def test_stop_is_quick_while_waiting_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "Backoff", lambda stop: Backoff(stop, 60.0, 60.0))
    made, _, reports = make(tmp_path / "no-such-camera")
    made.start()
    until(lambda: reports)
    stop_quickly(made)


def test_a_picture_that_is_none_is_reported(tmp_path, short_waits):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    made, pictures, reports = make(path)
    made.start()
    until(lambda: len(reports) >= 2)
    stop_quickly(made)
    assert pictures == []


class StubCapture:
    """A camera of 100 Hz; ``lives`` says how many pictures each opening gives, 0 that it cannot be opened."""

    lives: list[int] = []  # noqa: RUF012
    opened: list = []  # noqa: RUF012
    released = 0

    def __init__(self, device):
        type(self).opened.append(device)
        self._left = type(self).lives.pop(0) if type(self).lives else 10**9
        self._open = self._left > 0
        self.settings = {}

    def isOpened(self):
        return self._open

    def set(self, key, value):
        self.settings[key] = value
        return True

    def get(self, key):
        raise AssertionError("a live camera is not slowed down")

    def grab(self):
        time.sleep(0.01)
        self._left -= 1
        return self._left >= 0

    def retrieve(self):
        shape = (int(self.settings.get(cv2.CAP_PROP_FRAME_HEIGHT, 10)), 20, 3)
        return True, np.zeros(shape, np.uint8)

    def release(self):
        type(self).released += 1


@pytest.fixture
def capture(monkeypatch):
    monkeypatch.setattr(StubCapture, "lives", [])
    monkeypatch.setattr(StubCapture, "opened", [])
    monkeypatch.setattr(StubCapture, "released", 0)
    monkeypatch.setattr(cv2, "VideoCapture", StubCapture)
    return StubCapture


def test_a_camera_that_dies_is_reported_and_opened_again(capture, short_waits, monkeypatch):
    monkeypatch.setattr(capture, "lives", [0, 5, 0, 0])
    made, pictures, reports = make("0", rate=1000.0)
    made.start()
    until(lambda: len(pictures) >= 12)
    stop_quickly(made)
    assert [report.split("; ")[0] for report in reports] == [
        "camera 0 cannot be opened",
        "camera 0 is open: 20x10",
        "camera 0 was lost",
        "camera 0 cannot be opened",
        "camera 0 cannot be opened",
        "camera 0 is open: 20x10",
    ]
    assert [report.split("in ")[1] for report in reports if "next" in report] == [
        "0.02 s",
        "0.02 s",
        "0.04 s",
        "0.08 s",
    ]
    assert capture.opened == [0, 0, 0, 0, 0]
    assert capture.released == 5
    assert made.counters.reconnects == 4


@pytest.mark.parametrize(("size", "height"), [((0, 0), 10), ((640, 480), 480)])
def test_the_size_is_asked_for_if_one_is_wanted(capture, size, height):
    made, pictures, _ = make("/dev/video7", 1000.0, *size)
    made.start()
    until(lambda: pictures)
    stop_quickly(made)
    assert capture.opened == ["/dev/video7"]
    assert pictures[0][1].shape[0] == height


def test_of_a_fast_camera_no_more_pictures_are_given_on_than_asked_for(capture):
    made, pictures, _ = make("0", rate=20.0)
    made.start()
    until(lambda: len(pictures) >= 8)
    stop_quickly(made)
    assert np.mean(gaps(pictures)) == pytest.approx(0.05, abs=0.015)
