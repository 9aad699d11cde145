"""Images as drivers send them, and several faces in one."""

from __future__ import annotations

import array
import itertools

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import cv2
from harness import ORIGIN, until
from sensor_msgs.msg import CompressedImage

from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.events import NANOSECONDS, Image
from synctva_ros.ros.convert import from_time, image_to_msg, to_time

SECONDS = itertools.count(1)


def show(lab, image):
    """Publish an image, each a second after the last one, and return what was found in it."""
    seen, stamp = lab.observer.seen["faces"], ORIGIN + next(SECONDS) * NANOSECONDS
    before = len(seen)
    if isinstance(image, bytes):
        message = CompressedImage(format="jpeg", data=array.array("B", image))
        message.header.stamp = to_time(stamp)
        lab.observer.say("image/compressed", message)
    else:
        lab.observer.say("image", image_to_msg(Image(stamp, image, "eye")))
    until(lambda: len(seen) > before, "the faces")
    (message,) = seen[before:]
    assert from_time(message.header.stamp) == stamp
    return message


def encoded(image, suffix):
    return cv2.imencode(suffix, image)[1].tobytes()


def test_compressed_images_of_all_usual_kinds_are_read_and_damaged_ones_told(lab, astronaut):
    lab.observer.hear("faces")
    lab.up("faces", image_transport="compressed")
    grey = cv2.cvtColor(astronaut, cv2.COLOR_BGR2GRAY)
    boxes = []
    for image, suffix in itertools.product((astronaut, grey), (".jpg", ".png")):
        message = show(lab, encoded(image, suffix))
        assert message.looked_at
        assert (message.height, message.width) == (512, 512)
        (face,) = message.faces
        assert len(face.expression)
        boxes.append((face.x, face.y, face.width, face.height))
    np.testing.assert_allclose(boxes, [boxes[0]] * 4, atol=0.03)
    assert lab.state("faces")[0] == 0

    whole = encoded(astronaut, ".png")
    for damaged in (b"", b"this is no image", whole[:40]):
        message = show(lab, damaged)
        assert not message.looked_at
        assert list(message.faces) == []
        sentence = lab.diagnosed("faces", 1)
        assert "cannot be decoded" in sentence
        assert "JPEG or PNG" in sentence
    assert len(show(lab, whole).faces) == 1
    assert lab.diagnosed("faces", 0) == "1 face in view"
    assert lab.observer.diagnostics["faces"][1]["errors"] == "3"


def test_all_faces_of_an_image_come_in_one_message_the_largest_first(lab, astronaut):
    """A small one on the left, a large one in the middle, one of middle size on the right."""
    lab.observer.hear("faces")
    lab.up("faces")
    face = astronaut[0:240, 95:335]
    image = np.full((480, 960, 3), 110, np.uint8)
    for left, side in ((0, 200), (230, 420), (680, 280)):
        image[40 : 40 + side, left : left + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    message = show(lab, image)
    assert (message.height, message.width) == (480, 960)
    assert len(message.faces) == 3
    assert len({found.face_id for found in message.faces}) == 3
    areas = [found.width * found.height for found in message.faces]
    assert areas == sorted(areas, reverse=True)
    middles = [(found.x + found.width / 2) * 960 for found in message.faces]
    for middle, (left, side) in zip(middles, ((230, 420), (680, 280), (0, 200)), strict=True):
        assert left < middle < left + side
    for found in message.faces:
        landmarks = np.reshape(found.landmarks, (5, 2))
        right_eye, left_eye, nose, *mouth = landmarks
        assert found.x < landmarks[:, 0].min()
        assert landmarks[:, 0].max() < found.x + found.width
        assert found.y < landmarks[:, 1].min()
        assert landmarks[:, 1].max() < found.y + found.height
        assert right_eye[0] < nose[0] < left_eye[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(corner[1] for corner in mouth)
        assert 0.5 < found.score <= 1.0
        assert 0.0 < found.quality <= 1.0
        assert len(found.expression) == FaceEncoder().width
    # The same person three times: pixels decide, not shares. In the next image each has the same id.
    sizes = [found.width * 960 / (found.height * 480) for found in message.faces]
    np.testing.assert_allclose(sizes, sizes[0], rtol=0.15)
    assert [found.face_id for found in show(lab, image).faces] == [found.face_id for found in message.faces]


def test_only_of_the_sharp_face_the_expression_is_read(lab, astronaut):
    lab.observer.hear("faces")
    lab.up("faces")
    face = astronaut[0:240, 95:335]
    blurred = cv2.GaussianBlur(face, (0, 0), 9.0)
    message = show(lab, np.hstack([blurred, face]))
    assert len(message.faces) == 2
    left, right = sorted(message.faces, key=lambda found: found.x)
    assert left.x + left.width / 2 < 0.5 < right.x + right.width / 2
    assert left.quality < right.quality
    assert len(left.expression) == 0
    assert len(right.expression) == FaceEncoder().width
    assert left.face_id != right.face_id
