"""Node: media file → ``audio`` and ``image``, in place of microphone and camera."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar

from rclpy.duration import Duration
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from synctva_ros import msg
from synctva_ros.events import NANOSECONDS, AudioChunk
from synctva_ros.ros.convert import chunk_to_msg, from_time, image_to_msg
from synctva_ros.ros.node import (
    QOS_AUDIO_OUT,
    QOS_IMAGE_OUT,
    QOS_RESULT,
    Param,
    PerceptionNode,
    run_node,
)
from synctva_ros.sources.media import MediaFile, Picture

#: Faster than real time: utterances that may be on their way through the graph, and pictures, before waiting.
UTTERANCES_AHEAD = 8
PICTURES_AHEAD = 4
#: Chunks between two waits for the end-pointer to have received them all.
CHUNKS_AHEAD = 250


class MediaNode(PerceptionNode):
    """Plays a file once, then says ``end_of_stream``."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param("file", "", "Path of the media file"),
        Param("realtime", True, "Play at the file's own speed; false: as fast as the graph takes it"),
        Param("chunk", 0.03, "Length of a chunk of sound [s]", 0.01, 0.5),
        Param("video_rate", 10.0, "Pictures published per second at the most [Hz]; 0 for none", 0.0, 120.0),
        Param(
            "wait_for_graph", 10.0, "Wait at most so long for a subscriber to the sound before playing [s]", 0.0, 600.0
        ),
        Param("frame_id", "media", "Frame for the headers"),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("media", **kwargs)
        self._media: MediaFile | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._progress = threading.Condition()
        self._on_their_way: set[str] = set()
        self._picture_seen = 0
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
        if not self.value("file"):
            raise ValueError("parameter 'file' is empty; give the path of a media file")
        self._media = MediaFile(self.value("file"), self.value("chunk"), self.value("video_rate"), self.warn)

    def activate(self) -> None:
        """Start to play from the beginning."""
        self._audio = self.advertise(msg.AudioChunk, "audio", QOS_AUDIO_OUT)
        self._image = self.advertise(Image, "image", QOS_IMAGE_OUT)
        self._frame_id: str = self.value("frame_id")
        if not self.value("realtime"):
            self.subscribe(msg.Utterance, "utterance", self._utterance_left, QOS_RESULT)
            self.subscribe(msg.Emotion, "emotion", self._utterance_done, QOS_RESULT)
            self.subscribe(Header, "image/processed", self._picture_done, QOS_RESULT)
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
        """Tell how far it is."""
        values = {"file": self.value("file"), "position [s]": f"{self._position:.1f}"}
        return 0, "ended" if self.ended.is_set() else "playing", values

    def _play(self) -> None:
        assert self._media is not None
        try:
            wait = self.value("wait_for_graph")
            if self._media.has_audio and not self._until(lambda: self._audio.get_subscription_count() > 0, wait):
                self.warn(f"nobody has subscribed to the sound within {wait:g} s; playing all the same")
            realtime = self.value("realtime")
            origin = self.now()
            for item in self._media.play(origin):
                if self._stop.is_set():
                    return
                self._position = (item.stamp - origin) / NANOSECONDS
                if realtime:
                    self._sleep_until(item)
                if isinstance(item, Picture):
                    self._image.publish(image_to_msg(item.stamp, item.image, self._frame_id))
                else:
                    self._audio.publish(chunk_to_msg(item, self._frame_id))
                if not realtime:
                    self._hold_back(item)
            self._audio.wait_for_all_acked(Duration(seconds=5))
            self.inform(f"{self._media.path.name} has ended after {self._position:.1f} s")
        except Exception as error:
            self.report_error(error)
        finally:
            self.ended.set()

    def _sleep_until(self, item: AudioChunk | Picture) -> None:
        """Give a chunk out when its last sample would have been heard, a picture when it would have been taken."""
        due = item.stamp
        if isinstance(item, AudioChunk):
            due += round(len(item.samples) * NANOSECONDS / item.sample_rate)
        while not self._stop.is_set() and (rest := (due - self.now()) / NANOSECONDS) > 0:
            self._stop.wait(min(rest, 0.05))  # in small steps: /clock may run at another speed than the wall

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        for _ in range(round(seconds / 0.02)):
            if condition() or self._stop.is_set():
                return True
            self._stop.wait(0.02)
        return condition()

    # --- faster than real time: no further ahead than the graph can follow

    def _hold_back(self, item: AudioChunk | Picture) -> None:
        if isinstance(item, Picture):
            ahead = PICTURES_AHEAD * NANOSECONDS / max(self.value("video_rate"), 1e-3)
            if self.count_publishers("image/processed"):
                self._follow(lambda: item.stamp - self._picture_seen <= ahead, 2.0)
            return
        if item.sequence % CHUNKS_AHEAD == CHUNKS_AHEAD - 1:
            self._audio.wait_for_all_acked(Duration(seconds=10))
        full = len(self._on_their_way) >= UTTERANCES_AHEAD and self.count_publishers("emotion")
        if full and not self._follow(lambda: len(self._on_their_way) < UTTERANCES_AHEAD, 120.0):
            self.warn(f"{len(self._on_their_way)} utterances got no answer in 120 s; playing on")
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

    def _picture_done(self, message: Header) -> None:
        with self._progress:
            self._picture_seen = from_time(message.stamp)
            self._progress.notify_all()


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(MediaNode, args)


if __name__ == "__main__":
    main()
