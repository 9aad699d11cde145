"""The one place where dataclasses become messages and messages become dataclasses (and JSON)."""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from synctva_ros import msg
from synctva_ros.events import (
    NANOSECONDS,
    AudioChunk,
    EndedBy,
    Estimate,
    Features,
    FloatArray,
    Modality,
    Status,
    Transcript,
    TranscriptStatus,
    Utterance,
)

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
    """Return a ROS time as nanoseconds."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def header(stamp: int, frame_id: str = "") -> Header:
    """Return a header with its stamp in nanoseconds."""
    return Header(stamp=to_time(stamp), frame_id=frame_id)


def floats(values: FloatArray | None) -> array.array[float]:
    """Return a vector as what rclpy takes without looking at each element (25 times faster than a list)."""
    taken = array.array("f")
    if values is not None:
        taken.frombytes(np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8).data)  # the only copy
    return taken


def vector(values: Any) -> FloatArray:
    """Return a message's float sequence as an array ``[n]``."""
    return np.frombuffer(values, np.float32) if isinstance(values, array.array) else np.asarray(values, np.float32)


def chunk_to_msg(chunk: AudioChunk, frame_id: str) -> msg.AudioChunk:
    """Turn a chunk into its message."""
    return msg.AudioChunk(
        header=header(chunk.stamp, frame_id),
        stream_id=chunk.stream_id,
        sequence=chunk.sequence,
        sample_rate=chunk.sample_rate,
        channels=chunk.samples.shape[1],
        samples=floats(chunk.samples),
        end_of_stream=chunk.end_of_stream,
    )


def chunk_from_msg(message: msg.AudioChunk) -> AudioChunk:
    """Turn a message into a chunk.

    Raises:
        ValueError: the samples are not a whole number of frames.

    """
    samples = vector(message.samples)
    if message.channels == 0 or len(samples) % message.channels:
        raise ValueError(
            f"chunk {message.sequence} of stream {message.stream_id!r} has {len(samples)} samples "
            f"for {message.channels} channels; it was left out"
        )
    return AudioChunk(
        stream_id=message.stream_id,
        sequence=message.sequence,
        stamp=from_time(message.header.stamp),
        sample_rate=message.sample_rate,
        samples=samples.reshape(-1, message.channels),
        end_of_stream=message.end_of_stream,
    )


def utterance_to_msg(utterance: Utterance, frame_id: str, now: int) -> msg.Utterance:
    """Turn an utterance into its message; ``now`` [ns] tells how long end-pointing took."""
    return msg.Utterance(
        header=header(utterance.end, frame_id),
        start=to_time(utterance.start),
        utterance_id=utterance.utterance_id,
        stream_id=utterance.stream_id,
        first_sequence=utterance.first_sequence,
        last_sequence=utterance.last_sequence,
        stream_start=utterance.stream_start,
        stream_end=utterance.stream_end,
        speaker_id=utterance.speaker_id,
        ended_by=int(utterance.ended_by),
        clipped=utterance.clipped,
        rms=utterance.rms,
        samples_start=to_time(utterance.samples_start),
        sample_rate=utterance.sample_rate,
        samples=floats(utterance.samples),
        endpoint_duration=(now - utterance.end) / NANOSECONDS,
    )


def utterance_from_msg(message: msg.Utterance) -> Utterance:
    """Turn a message into an utterance."""
    return Utterance(
        utterance_id=message.utterance_id,
        stream_id=message.stream_id,
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        start=from_time(message.start),
        end=from_time(message.header.stamp),
        stream_start=message.stream_start,
        stream_end=message.stream_end,
        ended_by=EndedBy(message.ended_by),
        samples_start=from_time(message.samples_start),
        sample_rate=message.sample_rate,
        samples=vector(message.samples),
        rms=message.rms,
        clipped=message.clipped,
        speaker_id=message.speaker_id,
    )


def transcript_to_msg(transcript: Transcript, header: Header) -> msg.Transcript:
    """Turn a transcript into its message, under the header of its utterance."""
    return msg.Transcript(
        header=header,
        utterance_id=transcript.utterance_id,
        status=int(transcript.status),
        text=transcript.text,
        language=transcript.language,
        language_probability=transcript.language_probability,
        average_logprob=transcript.average_logprob,
        no_speech_probability=transcript.no_speech_probability,
        model_id=transcript.model_id,
        duration=transcript.duration,
    )


def transcript_from_msg(message: msg.Transcript) -> Transcript:
    """Turn a message into a transcript."""
    return Transcript(
        utterance_id=message.utterance_id,
        status=TranscriptStatus(message.status),
        text=message.text,
        language=message.language,
        language_probability=message.language_probability,
        average_logprob=message.average_logprob,
        no_speech_probability=message.no_speech_probability,
        model_id=message.model_id,
        duration=message.duration,
    )


def features_to_msg(features: Features, frame_id: str) -> msg.UtteranceFeatures:
    """Turn features into their message."""
    return msg.UtteranceFeatures(
        header=header(features.end, frame_id),
        start=to_time(features.start),
        utterance_id=features.utterance_id,
        stream_id=features.stream_id,
        stream_start=features.stream_start,
        stream_end=features.stream_end,
        speaker_id=features.speaker_id,
        face_id=features.face_id,
        person_id=features.person_id,
        ended_by=int(features.ended_by),
        text=features.text,
        modalities=int(features.modalities),
        text_vector=floats(features.text_vector),
        audio_vector=floats(features.audio_vector),
        vision_vector=floats(features.vision_vector),
        text_encoder=features.text_encoder,
        audio_encoder=features.audio_encoder,
        vision_encoder=features.vision_encoder,
        frames_seen=features.frames_seen,
        frames_with_face=features.frames_with_face,
        stages=list(features.durations),
        durations=array.array("f", features.durations.values()),
    )


def features_from_msg(message: msg.UtteranceFeatures) -> Features:
    """Turn a message into features; a vector whose bit is not set is missing, whatever it holds."""

    def present(bit: Modality, values: Any) -> FloatArray | None:
        return vector(values) if message.modalities & bit and len(values) else None

    return Features(
        utterance_id=message.utterance_id,
        start=from_time(message.start),
        end=from_time(message.header.stamp),
        text_vector=present(Modality.TEXT, message.text_vector),
        audio_vector=present(Modality.AUDIO, message.audio_vector),
        vision_vector=present(Modality.VISION, message.vision_vector),
        text_encoder=message.text_encoder,
        audio_encoder=message.audio_encoder,
        vision_encoder=message.vision_encoder,
        stream_id=message.stream_id,
        stream_start=message.stream_start,
        stream_end=message.stream_end,
        speaker_id=message.speaker_id,
        face_id=message.face_id,
        person_id=message.person_id,
        text=message.text,
        frames_seen=message.frames_seen,
        frames_with_face=message.frames_with_face,
        ended_by=EndedBy(message.ended_by),
        durations=dict(zip(message.stages, message.durations, strict=True)),
    )


def emotion_to_msg(estimate: Estimate, features: Features, status: Status, frame_id: str, now: int) -> msg.Emotion:
    """Turn an estimate and what it was made from into the message; ``now`` [ns] gives the total latency."""
    durations = {
        **features.durations,
        "network": estimate.duration,
        "total": (now - features.end) / NANOSECONDS,
    }
    return msg.Emotion(
        header=header(features.end, frame_id),
        start=to_time(features.start),
        utterance_id=features.utterance_id,
        dialogue_id=estimate.dialogue_id,
        speaker_id=features.speaker_id,
        face_id=features.face_id,
        person_id=features.person_id,
        turn=estimate.turn,
        stream_id=features.stream_id,
        stream_start=features.stream_start,
        stream_end=features.stream_end,
        text=features.text,
        label=estimate.label,
        labels=list(estimate.labels),
        probabilities=floats(estimate.probabilities),
        confidence=estimate.confidence,
        status=int(status),
        valence=math.nan,
        arousal=math.nan,
        modalities=int(estimate.modalities),
        contributions=np.asarray(estimate.contributions, np.float32),
        context_ids=[identity for identity, _ in estimate.context],
        context_weights=array.array("f", (weight for _, weight in estimate.context)),
        stages=list(durations),
        durations=array.array("f", durations.values()),
        model_id=estimate.model_id,
    )


def emotion_to_dict(message: msg.Emotion) -> dict[str, Any]:
    """All fields by their names as JSON knows them: ``status`` as its name, a number that is NaN as null."""
    result = _plain(message)
    result["status"] = Status(message.status).name
    return dict(result)


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):
        return {name: _plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, array.array | np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        # float32 fields: seven digits say all there is, and are readable.
        number = float(value)
        return None if not math.isfinite(number) else float(f"{number:.7g}") if abs(number) < 1e6 else number
    return value


def image_to_msg(stamp: int, image: NDArray[np.uint8], frame_id: str) -> Image:
    """Turn a BGR picture ``[h, w, 3]`` into its message."""
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).reshape(-1).data)  # the only copy: pictures are large
    return Image(
        header=header(stamp, frame_id),
        height=image.shape[0],
        width=image.shape[1],
        encoding="bgr8",
        step=image.shape[1] * 3,
        data=data,
    )


def image_from_msg(message: Image) -> NDArray[np.uint8]:
    """Turn an image of a usual encoding into BGR ``[h, w, 3]``, without cv_bridge.

    Rows may be padded (``step``); 16-bit pictures keep their upper 8 bits. A picture that is BGR already is a read-only
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
    pixels = np.ascontiguousarray(rows).view(np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<"))
    pixels = pixels.reshape(height, width, channels)
    if kind == "u2":
        pixels = (pixels >> 8).astype(np.uint8)
    if not conversion:
        return pixels
    import cv2

    return np.asarray(cv2.cvtColor(pixels, getattr(cv2, f"COLOR_{conversion}")), np.uint8)
