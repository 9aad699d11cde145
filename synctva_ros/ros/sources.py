"""The nodes at the beginning of the street: microphone, camera, and a media file in place of both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.duration import Duration
from sensor_msgs.msg import Image as RosImage

from synctva_ros import msg
from synctva_ros.events import NANOSECONDS, AudioChunk, Image
from synctva_ros.ros.convert import from_time, image_to_msg, to_msg
from synctva_ros.ros.node import QOS_AUDIO_OUT, QOS_IMAGE_OUT, QOS_RESULT, PerceptionNode
from synctva_ros.sources.camera import Camera
from synctva_ros.sources.files import shown
from synctva_ros.sources.media import MediaFile
from synctva_ros.sources.microphone import Microphone

#: Faster than real time: utterances that may be on their way through the graph, and images, before waiting.
UTTERANCES_AHEAD = 8
IMAGES_AHEAD = 4
#: Chunks between two waits for the end-pointer to have received them all.
CHUNKS_AHEAD = 250


class DeviceNode(PerceptionNode):
    """A device that a source reads on a thread of its own, opened on activation."""

    #: What the device gives, and what it does when all is well.
    gives, doing = "sound", "listening"

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._source: Microphone | Camera | None = None

    def deactivate(self) -> None:
        """Close the device."""
        if self._source is not None:
            self._source.stop()

    def cleanup(self) -> None:
        """Forget the device."""
        self._source = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Whether the device gives something."""
        if self._source is None:
            return 2, f"the device gives no {self.gives}", {}
        values = vars(self._source.counters)
        if self._source.connected:
            return 0, self.doing, values
        why = f": {self._source.trouble}" if self._source.trouble else ""
        return 2, f"the device gives no {self.gives}{why}", values


class MicrophoneNode(DeviceNode):
    """Publishes what a microphone hears, stamped at its ADC."""

    def configure(self) -> None:
        """Load PortAudio."""
        log = self.get_logger()
        self._source = Microphone(self.config, clock=self.now, on_chunk=self._publish, log=log.info, warn=log.warning)

    def activate(self) -> None:
        """Open the device."""
        self._publisher = self.advertise(msg.AudioChunk, "audio", QOS_AUDIO_OUT)
        if self._source is not None:
            self._source.start()

    def _publish(self, chunk: AudioChunk) -> None:
        self._publisher.publish(to_msg(chunk))


class CameraNode(DeviceNode):
    """Publishes what a camera sees. Not needed where the robot's own driver publishes images (remap ``image``)."""

    gives, doing = "images", "watching"

    def configure(self) -> None:
        """Prepare the device."""
        log = self.get_logger()
        self._source = Camera(self.config, clock=self.now, on_image=self._publish, log=log.info, warn=log.warning)

    def activate(self) -> None:
        """Open the device."""
        self._publisher = self.advertise(RosImage, "image", QOS_IMAGE_OUT)
        if self._source is not None:
            self._source.start()

    def _publish(self, image: Image) -> None:
        self._publisher.publish(image_to_msg(image))


class MediaNode(PerceptionNode):
    """Plays a file once each time it is activated, then says ``end_of_stream``."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._media: MediaFile | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._on_their_way: set[str] = set()
        self._image_seen = 0
        self._position = 0.0
        #: Set when the file has ended and all of it was published.
        self.ended = threading.Event()

    @property
    def stream_id(self) -> str:
        """Id of the stream that is being played; empty when not configured."""
        return self._media.stream_id if self._media else ""

    @property
    def has_audio(self) -> bool:
        """Whether there is sound in the file."""
        return self._media is not None and self._media.has_audio

    def configure(self) -> None:
        """Open the file, so that a bad one is refused here."""
        if not self.config.file:
            raise ValueError("parameter 'file' is empty; give the path of a media file")
        self._media = MediaFile(
            self.config.file, self.config.chunk, self.config.video_rate, self.get_logger().warning, self.config.frame_id
        )

    def activate(self) -> None:
        """Start to play from the beginning."""
        self._audio = self.advertise(msg.AudioChunk, "audio", QOS_AUDIO_OUT)
        self._image = self.advertise(RosImage, "image", QOS_IMAGE_OUT)
        self._on_their_way.clear()
        self._image_seen = 0
        if not self.config.realtime:
            self.subscribe(msg.Utterance, "utterance", self._utterance_left, QOS_RESULT)
            self.subscribe(msg.Emotion, "emotion", self._utterance_done, QOS_RESULT)
            self.subscribe(msg.Faces, "faces", self._image_done, QOS_RESULT)
        self._stop.clear()
        self.ended.clear()
        self._thread = threading.Thread(target=self._play, name="media", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        """Stop playing."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def cleanup(self) -> None:
        """Forget the file."""
        self._media = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """How far it is."""
        values = {"file": self.config.file, "position [s]": f"{self._position:.1f}"}
        return 0, "ended" if self.ended.is_set() else "playing", values

    def _play(self) -> None:
        assert self._media is not None
        try:
            wait = self.config.wait_for_graph
            if self._media.has_audio and not self._until(lambda: self._audio.get_subscription_count() > 0, wait):
                self.get_logger().warning(f"nobody has subscribed to the sound within {wait:g} s; playing all the same")
            realtime = self.config.realtime
            origin = self.now()
            for item in self._media.play(origin):
                if self._stop.is_set():
                    return
                self._position = (item.stamp - origin) / NANOSECONDS
                if realtime:
                    # A chunk goes out when its last sample would have been heard, an image when it was taken.
                    self._sleep_until(item.end if isinstance(item, AudioChunk) else item.stamp)
                if isinstance(item, Image):
                    self._image.publish(image_to_msg(item))
                else:
                    self._audio.publish(to_msg(item))
                if not realtime:
                    self._hold_back(item)
            self._audio.wait_for_all_acked(Duration(seconds=5))
            self.get_logger().info(f"{shown(self._media.path.name)} has ended after {self._position:.1f} s")
        except Exception as error:
            self.report_error(error)
        finally:
            self.ended.set()

    def _sleep_until(self, due: int) -> None:
        while not self._stop.is_set() and (rest := (due - self.now()) / NANOSECONDS) > 0:
            self._stop.wait(min(rest, 0.05))  # in small steps: /clock may run at another speed than the wall

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        for _ in range(round(seconds / 0.02)):
            if condition() or self._stop.is_set():
                return True
            self._stop.wait(0.02)
        return condition()

    # --- faster than real time: no further ahead than the graph can follow

    def _hold_back(self, item: AudioChunk | Image) -> None:
        if isinstance(item, Image):
            ahead = IMAGES_AHEAD * NANOSECONDS / max(self.config.video_rate, 1e-3)
            if self.has_publisher("faces"):
                self._follow(lambda: item.stamp - self._image_seen <= ahead, 2.0)
            return
        if item.sequence % CHUNKS_AHEAD == CHUNKS_AHEAD - 1:
            self._audio.wait_for_all_acked(Duration(seconds=10))
        full = len(self._on_their_way) >= UTTERANCES_AHEAD and self.has_publisher("emotion")
        if full and not self._follow(lambda: len(self._on_their_way) < UTTERANCES_AHEAD, 120.0):
            self.get_logger().warning(f"{len(self._on_their_way)} utterances got no answer in 120 s; playing on")
            self._on_their_way.clear()

    def _follow(self, condition: Callable[[], bool], seconds: float) -> bool:
        with self._progress:
            return self._progress.wait_for(lambda: condition() or self._stop.is_set(), seconds)

    def _utterance_left(self, message: msg.Utterance) -> None:
        with self._progress:
            self._on_their_way.add(message.utterance_id)

    def _utterance_done(self, message: msg.Emotion) -> None:
        if message.status == msg.Emotion.PROVISIONAL:
            return
        with self._progress:
            self._on_their_way.discard(message.utterance_id)
            self._progress.notify_all()

    def _image_done(self, message: msg.Faces) -> None:
        with self._progress:
            self._image_seen = from_time(message.header.stamp)
            self._progress.notify_all()
