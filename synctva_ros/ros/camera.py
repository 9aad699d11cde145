"""Node: camera → ``image``. Not needed where the robot's own driver publishes pictures (remap ``image``)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image

from synctva_ros.ros.convert import image_to_msg
from synctva_ros.ros.node import QOS_IMAGE_OUT, Param, PerceptionNode, run_node
from synctva_ros.sources.camera import Camera


class CameraNode(PerceptionNode):
    """Publishes what a camera sees."""

    PARAMETERS: ClassVar[tuple[Param, ...]] = (
        Param("device", "0", "Index, device file or URL of a camera; or a video (repeated) or a still picture"),
        Param("width", 640, "Wanted width [pixels]; 0 leaves the camera's own", 0, 7680),
        Param("height", 480, "Wanted height [pixels]; 0 leaves the camera's own", 0, 4320),
        Param("rate", 10.0, "Pictures published per second at the most [Hz]", 0.1, 120.0),
        Param("frame_id", "camera", "TF frame of the camera, for the header"),
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("camera", **kwargs)
        self._camera: Camera | None = None

    def configure(self) -> None:
        """Read the parameters; the device is opened on activation."""
        self._frame_id: str = self.value("frame_id")
        self._camera = Camera(
            self.value("device"),
            self.value("width"),
            self.value("height"),
            self.value("rate"),
            clock=self.now,
            on_image=self._publish,
            log=self.inform,
            warn=self.warn,
        )

    def activate(self) -> None:
        """Open the device."""
        self._publisher = self.advertise(Image, "image", QOS_IMAGE_OUT)
        if self._camera is not None:
            self._camera.start()

    def deactivate(self) -> None:
        """Close the device."""
        if self._camera is not None:
            self._camera.stop()

    def cleanup(self) -> None:
        """Forget the device."""
        self._camera = None

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Tell whether the device gives pictures."""
        if self._camera is None or not self._camera.connected:
            return 2, "the device gives no pictures", vars(self._camera.counters) if self._camera else {}
        return 0, "watching", vars(self._camera.counters)

    def _publish(self, stamp: int, image: NDArray[np.uint8]) -> None:
        self._publisher.publish(image_to_msg(stamp, image, self._frame_id))


def main(args: list[str] | None = None) -> None:
    """Run the node."""
    run_node(CameraNode, args)


if __name__ == "__main__":
    main()
