"""The one place where events become messages and messages become events, field by field and by their names."""

from __future__ import annotations

import array
from collections.abc import Callable
from dataclasses import fields
from enum import IntEnum, IntFlag
from functools import cache, partial
from operator import attrgetter
from typing import Any, get_type_hints

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from sensor_msgs.msg import Image as RosImage
from std_msgs.msg import Bool, Header

from synctva_ros import msg
from synctva_ros.events import (
    MODALITIES,
    NANOSECONDS,
    SHARES,
    AudioChunk,
    Emotion,
    Face,
    Faces,
    Features,
    FloatArray,
    Image,
    ImageArray,
    Modality,
    RobotSpeaking,
    Transcript,
    Utterance,
)

#: The message of each event; a part of one has one, too.
MESSAGES: dict[type, type] = {
    AudioChunk: msg.AudioChunk,
    Utterance: msg.Utterance,
    Transcript: msg.Transcript,
    Face: msg.Face,
    Faces: msg.Faces,
    Features: msg.UtteranceFeatures,
    Emotion: msg.Emotion,
}
#: Image encodings that are understood: dtype, channels, and what OpenCV calls the way from them to BGR.
ENCODINGS: dict[str, tuple[str, int, str]] = {
    "bgr8": ("u1", 3, ""),
    "8UC3": ("u1", 3, ""),
    "rgb8": ("u1", 3, "RGB2BGR"),
    "bgra8": ("u1", 4, "BGRA2BGR"),
    "rgba8": ("u1", 4, "RGBA2BGR"),
    "mono8": ("u1", 1, "GRAY2BGR"),
    "8UC1": ("u1", 1, "GRAY2BGR"),
    "mono16": ("u2", 1, "GRAY2BGR"),
    "16UC1": ("u2", 1, "GRAY2BGR"),
    "yuv422": ("u1", 2, "YUV2BGR_UYVY"),
    "uyvy": ("u1", 2, "YUV2BGR_UYVY"),
    "yuv422_yuy2": ("u1", 2, "YUV2BGR_YUY2"),
    "yuyv": ("u1", 2, "YUV2BGR_YUY2"),
}


def to_time(nanoseconds: int) -> Time:
    """Nanoseconds as a ROS time."""
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def from_time(time: Time) -> int:
    """A ROS time as nanoseconds."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def to_msg(event: Any) -> Any:
    """The message of an event, or of a part of one."""
    kind = MESSAGES[type(event)]
    message = kind()
    for name, value in _writers(kind):
        setattr(message, name, value(event))
    return message


def from_msg(kind: type, message: Any, *, is_final: bool = True) -> Any:
    """The event of a message.

    Args:
        kind: type of the event.
        message: of the type that belongs to it.
        is_final: whether it came on the topic of what is over, for events that know the difference.

    Raises:
        ValueError: the message's fields do not fit together.
    """
    if kind is AudioChunk and (message.channels == 0 or len(message.samples) % message.channels):
        raise ValueError(
            f"chunk {message.sequence} of stream {message.stream_id!r} has {len(message.samples)} samples for "
            f"{message.channels} channels; it was left out"
        )
    given = {name: value(message) for name, value in _readers(kind)}
    if "is_final" in _names(kind):
        given["is_final"] = is_final
    if kind is Utterance:
        given["durations"] = {"turns": float(message.endpoint_duration)}
    if kind is Features:  # a vector whose bit is not set is missing, whatever it holds
        for bit, modality in zip(Modality, MODALITIES, strict=True):
            if not message.modalities & bit:
                given[f"{modality}_vector"] = None
    return kind(**given)


@cache
def _writers(kind: type) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """For each field of a message what it gets from the event."""
    shares = {name: (each, part) for each, names in SHARES.items() for part, name in enumerate(names)}
    told: dict[str, str] = kind.get_fields_and_field_types()  # type: ignore[attr-defined]
    writers: dict[str, Callable[[Any], Any]] = {}
    for name, what in told.items():
        if "stages" in told and name in shares:
            writers[name] = partial(_share, *shares[name])
        elif what == "std_msgs/Header":
            writers[name] = _header
        elif what == "builtin_interfaces/Time":
            writers[name] = _through(name, to_time)
        elif what == "sequence<synctva_ros/Face>":
            writers[name] = _through(name, lambda faces: [to_msg(face) for face in faces])
        elif what == "sequence<string>":
            writers[name] = _through(name, list)
        elif what.startswith(("sequence<float>", "float[")):
            writers[name] = _through(name, floats)
        elif what.startswith("uint"):
            writers[name] = _through(name, int)
        else:
            writers[name] = attrgetter(name)
    return tuple(writers.items())


@cache
def _readers(kind: type) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    """For each field of an event what it gets from the message."""
    told: dict[str, str] = MESSAGES[kind].get_fields_and_field_types()  # type: ignore[attr-defined]
    hints = get_type_hints(kind)
    readers: dict[str, Callable[[Any], Any]] = {}
    for name in _names(kind):
        hint, what = hints[name], told.get(name, "")
        if "stages" in told and name in SHARES:
            readers[name] = partial(_read_share, *SHARES[name])
        elif "header" in told and name in ("stamp", "end"):
            readers[name] = _through("header", lambda header: from_time(header.stamp))
        elif "header" in told and name == "frame_id":
            readers[name] = attrgetter("header.frame_id")
        elif name not in told:
            continue
        elif kind is AudioChunk and name == "samples":
            readers[name] = lambda message: vector(message.samples).reshape(-1, message.channels)
        elif name == "landmarks":
            readers[name] = _through(name, lambda values: _or_none(vector(values).reshape(-1, 2)))
        elif what == "builtin_interfaces/Time":
            readers[name] = _through(name, from_time)
        elif what == "sequence<synctva_ros/Face>":
            readers[name] = _through(name, lambda faces: tuple(from_msg(Face, face) for face in faces))
        elif hint == FloatArray:
            readers[name] = _through(name, vector)
        elif hint == FloatArray | None:
            readers[name] = _through(name, lambda values: _or_none(vector(values)))
        elif what.startswith("sequence"):
            readers[name] = _through(name, tuple)
        elif isinstance(hint, type) and issubclass(hint, IntEnum | IntFlag):
            readers[name] = _through(name, hint)
        else:
            readers[name] = attrgetter(name)
    return tuple(readers.items())


def _through(name: str, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda holder: convert(getattr(holder, name))


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


def _header(event: Any) -> Header:
    stamp = event.stamp if hasattr(event, "stamp") else event.end
    return Header(stamp=to_time(stamp), frame_id=event.frame_id)


def _share(each: str, part: int, event: Any) -> Any:
    shares: dict[str, float] = getattr(event, each)
    return array.array("f", shares.values()) if part else list(shares)


def _read_share(names: str, numbers: str, message: Any) -> dict[str, float]:
    return dict(zip(getattr(message, names), getattr(message, numbers), strict=True))


def _or_none(values: FloatArray) -> FloatArray | None:
    return values if len(values) else None


def floats(values: Any) -> array.array[float]:
    """Numbers as what rclpy takes without looking at each element (25 times faster than a list); None as none."""
    taken = array.array("f")
    if values is not None:
        taken.frombytes(np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8).data)  # the only copy
    return taken


def vector(values: Any) -> FloatArray:
    """A message's float sequence as an array ``[n]``."""
    return np.frombuffer(values, np.float32) if isinstance(values, array.array) else np.asarray(values, np.float32)


# --- messages that are not ours


def speaking_from_msg(message: Bool) -> RobotSpeaking:
    """What ``robot_speaking`` says."""
    return RobotSpeaking(message.data)


def image_to_msg(image: Image) -> RosImage:
    """The message of a BGR image."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image.pixels).reshape(-1).data)  # the only copy: images are large
    return RosImage(
        header=_header(image),
        height=image.pixels.shape[0],
        width=image.pixels.shape[1],
        encoding="bgr8",
        step=image.pixels.shape[1] * 3,
        data=data,
    )


def image_from_msg(message: RosImage | CompressedImage) -> Image:
    """An image that is read when somebody looks at it."""
    read = partial(pixels, message) if isinstance(message, RosImage) else partial(decompressed, message)
    return Image(from_time(message.header.stamp), read, message.header.frame_id)


def decompressed(message: CompressedImage) -> ImageArray:
    """A JPEG or PNG image as BGR ``[h, w, 3]``.

    Raises:
        ValueError: it is damaged, or of another format.
    """
    import cv2

    found = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR) if len(message.data) else None
    if found is None:
        raise ValueError(
            f"compressed image of format {message.format!r} ({len(message.data)} bytes) cannot be decoded; have the "
            "driver publish JPEG or PNG"
        )
    return np.asarray(found, np.uint8)


def pixels(message: RosImage) -> ImageArray:
    """Turn an image of a usual encoding into BGR ``[h, w, 3]``, without cv_bridge.

    Rows may be padded (``step``). 16-bit images keep the upper 8 of the bits that are used: cameras of 10 or 12 bits
    leave the others 0. An image that is BGR already is a read-only
    view of the message's data.

    Raises:
        ValueError: the encoding is not supported, or ``step``, size and data do not fit together.

    """
    height, width, step = message.height, message.width, message.step
    if message.encoding not in ENCODINGS:
        raise ValueError(
            f"image encoding {message.encoding!r} is not supported; have the driver publish one of: "
            + ", ".join(ENCODINGS)
        )
    kind, channels, conversion = ENCODINGS[message.encoding]
    row = width * channels * np.dtype(kind).itemsize
    halved = conversion.startswith("YUV") and width % 2 != 0  # two pixels share their colour
    if height == 0 or width == 0 or halved or step < row or len(message.data) < step * (height - 1) + row:
        raise ValueError(
            f"image of {width}x{height} {message.encoding} with step {step} and {len(message.data)} bytes "
            f"does not fit together: a row takes {row} bytes"
        )
    data = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(data, shape=(height, row), strides=(step, 1), writeable=False)
    values = np.ascontiguousarray(rows).view(np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<"))
    values = values.reshape(height, width, channels)
    if kind == "u2":
        values = (values >> max(int(values.max()).bit_length() - 8, 0)).astype(np.uint8)
    if not conversion:
        return values
    import cv2

    return np.asarray(cv2.cvtColor(values, getattr(cv2, f"COLOR_{conversion}")), np.uint8)
