"""Cameras: still images, videos, devices that are not there or die."""

from __future__ import annotations

import socket
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from synctva_ros import config
from synctva_ros.events import NANOSECONDS
from synctva_ros.sources import camera, device
from synctva_ros.sources.camera import Camera
from synctva_ros.sources.device import Backoff

cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 48, 64


def make(device, rate=50.0, width=0, height=0):
    images, reports = [], []
    made = Camera(
        config.Camera(str(device), width, height, rate, "head_camera"),
        clock=time.monotonic_ns,
        on_image=images.append,
        log=reports.append,
        warn=reports.append,
    )
    return made, images, reports


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr(camera, "Backoff", lambda stop: Backoff(stop, 0.02, 0.08))


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def stop_quickly(made):
    begun = time.monotonic()
    made.stop()
    assert time.monotonic() - begun < 10.0  # it waits for nothing that takes long
    assert not made.connected
    assert not any(thread.name == "camera" for thread in threading.enumerate())


def gaps(images):
    return [(after.stamp - before.stamp) / NANOSECONDS for before, after in pairwise(images)]


def test_a_still_image_is_repeated_at_the_rate(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), image)
    made, images, _ = make(path, rate=40.0)
    made.start()
    until(lambda: len(images) >= 10)
    assert made.connected
    stop_quickly(made)
    assert all((given.pixels == image).all() for given in images)
    assert {given.frame_id for given in images} == {"head_camera"}
    assert min(gaps(images)) >= 1 / 40 - 1e-3
    assert made.counters.frames == len(images)


@pytest.fixture
def video(tmp_path):
    """Ten images at 50 Hz that grow brighter."""
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50.0, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write videos")
    for number in range(10):
        writer.write(np.full((HEIGHT, WIDTH, 3), 20 * number, np.uint8))
    writer.release()
    return path


def test_a_video_is_played_at_its_own_speed_and_again_from_its_start(video):
    made, images, reports = make(video, rate=100.0)
    made.start()
    until(lambda: len(images) >= 25)
    stop_quickly(made)
    numbers = [round(float(image.pixels.mean()) / 20) for image in images]
    assert numbers == [number % 10 for number in range(len(numbers))]
    within = np.array(gaps(images[:10]))
    assert np.median(within) == pytest.approx(0.02, abs=0.006)
    assert len(reports) == 1  # nothing is said when it begins again
    assert f"{WIDTH}x{HEIGHT}" in reports[0]
    assert made.counters.reconnects == 0


def test_a_video_is_seen_as_a_player_shows_it(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "2024-08-20T13:28:35Z.mkv"
    with av.open(f"file:{path}", "w") as out:
        stream = out.add_stream("mpeg4", rate=50, width=WIDTH, height=HEIGHT, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8), format="bgr24")))
        out.mux(stream.encode())
    made, images, reports = make(path)
    made.start()
    until(lambda: len(images) >= 12)
    stop_quickly(made)
    assert images[0].pixels.shape == (HEIGHT, 2 * WIDTH, 3)
    assert len(reports) == 1
    assert f"{2 * WIDTH}x{HEIGHT}" in reports[0]


def test_of_a_fast_video_no_more_images_are_given_on_than_asked_for(video):
    made, images, _ = make(video, rate=10.0)
    made.start()
    until(lambda: len(images) >= 5)
    stop_quickly(made)
    assert np.median(gaps(images)) == pytest.approx(0.1, abs=0.03)


def test_a_missing_device_is_reported_and_tried_again_ever_later(tmp_path, short_waits):
    made, images, reports = make(tmp_path / "no-such-camera")
    made.start()
    begun = time.monotonic()
    until(lambda: made.counters.reconnects >= 5)
    stop_quickly(made)
    assert time.monotonic() - begun >= 0.02 + 0.04 + 0.08 + 0.08
    assert images == []
    (report,) = reports  # said once
    assert report.endswith("cannot be opened; next attempt in 0.02 s")
    assert made.trouble in report
    assert "no-such-camera" in made.trouble


def test_stop_is_quick_while_waiting_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(camera, "Backoff", lambda stop: Backoff(stop, 60.0, 60.0))
    made, _, reports = make(tmp_path / "no-such-camera")
    made.start()
    until(lambda: reports)
    stop_quickly(made)


def test_a_camera_in_the_network_that_never_answers_is_said_and_does_not_hold_up_the_end(monkeypatch, short_waits):
    monkeypatch.setattr(camera, "ANSWER_AFTER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes the connection and says nothing
        made, images, reports = make(f"rtsp://127.0.0.1:{server.getsockname()[1]}/stream")
        made.start()
        until(lambda: reports)
        assert "cannot be opened" in reports[0]
        made.stop()
    assert images == []


def test_a_driver_that_hangs_is_left_alone_and_does_not_come_to_life_again(monkeypatch):
    monkeypatch.setattr(device, "PATIENCE", 0.1)
    hangs, opened = threading.Event(), threading.Event()

    class Hanging(StubCapture):
        def __init__(self, name):
            super().__init__(name)
            if not opened.is_set():
                opened.set()
                hangs.wait(300)

    monkeypatch.setattr(cv2, "VideoCapture", Hanging)
    made, images, reports = make("0")
    made.start()
    until(opened.is_set)
    made.stop()
    assert [thread.name for thread in threading.enumerate()].count("camera") == 1  # it hangs still
    made.start()
    until(lambda: len(images) >= 3)
    hangs.set()
    until(lambda: sum(thread.name == "camera" for thread in threading.enumerate()) == 1)
    stop_quickly(made)
    assert reports == ["camera 0 is open: 20x10"]


def test_an_image_that_is_none_is_reported(tmp_path, short_waits):
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    made, images, reports = make(path)
    made.start()
    until(lambda: len(reports) >= 2)
    stop_quickly(made)
    assert images == []


class StubCapture:
    """A camera of 100 Hz; ``lives`` says how many images each opening gives, 0 that it cannot be opened."""

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
    made, images, reports = make("0", rate=120.0)
    made.start()
    until(lambda: len(images) >= 12)
    stop_quickly(made)
    assert [report.split("; ")[0] for report in reports] == [
        "camera 0 cannot be opened",
        "camera 0 is open: 20x10",
        "camera 0 was lost",
        "camera 0 cannot be opened",
        "camera 0 is open: 20x10",
    ]
    assert [report.split("in ")[1] for report in reports if "next" in report] == [
        "0.02 s",
        "0.02 s",
        "0.04 s",
    ]
    assert capture.opened == [0, 0, 0, 0, 0]
    assert capture.released == 5
    assert made.counters.reconnects == 4


@pytest.mark.parametrize(("size", "height"), [((0, 0), 10), ((640, 480), 480)])
def test_the_size_is_asked_for_if_one_is_wanted(capture, size, height):
    made, images, _ = make("/dev/video7", 120.0, *size)
    made.start()
    until(lambda: images)
    stop_quickly(made)
    assert capture.opened == ["/dev/video7"]
    assert images[0].pixels.shape[0] == height


def test_of_a_fast_camera_no_more_images_are_given_on_than_asked_for(capture):
    made, images, _ = make("0", rate=20.0)
    made.start()
    until(lambda: len(images) >= 8)
    stop_quickly(made)
    assert np.mean(gaps(images)) == pytest.approx(0.05, abs=0.015)


def test_a_rate_that_changes_counts_at_once(capture):
    made, images, _ = make("0", rate=100.0)
    made.start()
    until(lambda: len(images) >= 5)
    made._config.rate = 10.0
    before = len(images)
    until(lambda: len(images) >= before + 5)
    stop_quickly(made)
    assert np.mean(gaps(images[before + 1 :])) > 0.07
    assert {given.frame_id for given in images} == {"head_camera"}
