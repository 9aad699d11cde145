"""Node: microphone → ``audio``."""

from __future__ import annotations

from typing import Any, ClassVar

from synctva_ros import msg
from synctva_ros.ros.convert import chunk_to_msg
from synctva_ros.ros.node import QOS_AUDIO_OUT, Param, PerceptionNode, run_node
from synctva_ros.sources.microphone import Microphone


class MicrophoneNode(PerceptionNode):
    """Publishes what a microphone hears, stamped at its ADC."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param("device", "", "Name, part of the name or index of the input device; empty for the default one"),
        Param("sample_rate", 16000, "Sampling rate [Hz]", 8000, 192000),
        Param("channels", 1, "Channels to open; they are mixed down later", 1, 32),
        Param("chunk", 0.03, "Length of a chunk [s]", 0.01, 0.5),
        Param("frame_id", "microphone", "TF frame of the microphone, for the header"),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("microphone", **kwargs)
        self._microphone: Microphone | None = None

    def configure(self) -> None:
        """Load PortAudio; the device is opened on activation."""
        self._microphone = Microphone(
            self.value("device"),
            self.value("sample_rate"),
            self.value("channels"),
            self.value("chunk"),
            clock=self.now,
            on_chunk=lambda chunk: self._publisher.publish(chunk_to_msg(chunk, self._frame_id)),
            log=self.inform,
            warn=self.warn,
        )
        self._frame_id: str = self.value("frame_id")

    def activate(self) -> None:
        """Open the device."""
        self._publisher = self.advertise(msg.AudioChunk, "audio", QOS_AUDIO_OUT)
        if self._microphone is not None:
            self._microphone.start()

    def deactivate(self) -> None:
        """Close the device."""
        if self._microphone is not None:
            self._microphone.stop()

    def cleanup(self) -> None:
        """Forget the device."""
        self._microphone = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell whether the device gives sound."""
        if self._microphone is None or not self._microphone.connected:
            return 2, "the device gives no sound", vars(self._microphone.counters) if self._microphone else {}
        return 0, "listening", vars(self._microphone.counters)


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(MicrophoneNode, args)


if __name__ == "__main__":
    main()
