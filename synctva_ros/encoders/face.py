"""What a face expresses: grey crops → logits of our network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from synctva_ros.events import EMOTIONS, FloatArray, ImageArray
from synctva_ros.vision.image import check_image, import_cv2

# Crops that the network sees at once, each with its mirror image.
_BATCH = 16


class FaceEncoder:
    """Logits of our network (encoders/face_network.py), one for each of ``EMOTIONS``.

    torch's thread count is left as it is.

    Attributes:
        name: of the weights; a network trained with one encoder refuses another.
        width: of the vectors, the number of classes.
        labels: of the classes, in order.
        modality: what is encoded.
        side: of the crops [pixels].
    """

    modality: ClassVar[str] = "vision"
    side: ClassVar[int] = 48

    def __init__(self, weights: str = "face_expression") -> None:
        """Load the network.

        Args:
            weights: Name of weights that come with the package, or a folder; empty for ``"face_expression"``.

        Raises:
            ImportError: OpenCV or torch is missing.
            WeightsError: No such weights, or they are damaged or for something else (a ValueError).
        """
        self._cv2 = import_cv2()
        import torch

        from synctva_ros.encoders.face_network import FaceNetwork, FaceNetworkConfig
        from synctva_ros.encoders.weights import load_encoder

        self.labels: tuple[str, ...] = EMOTIONS
        self.width = len(EMOTIONS)
        network, self.name, _ = load_encoder(weights or "face_expression", FaceNetwork, FaceNetworkConfig, EMOTIONS)
        # A sixth faster than with the channels first.
        self._network = network.to(memory_format=torch.channels_last)

    def encode(self, crops: Sequence[ImageArray]) -> FloatArray:
        """Logits ``[n, width]`` of ``n`` tight grey faces: the mean of each and its mirror image.

        Args:
            crops: uint8 ``[48, 48]``; those of another size ``[h, w]`` are brought to it.

        Raises:
            ValueError: Not such crops.
        """
        import torch

        logits = np.zeros((len(crops), self.width), np.float32)
        with torch.inference_mode():
            for first in range(0, len(crops), _BATCH):
                images = np.stack([self._checked(crop) for crop in crops[first : first + _BATCH]])
                batch = torch.from_numpy(np.concatenate([images, images[:, :, ::-1]])).float().unsqueeze(1)
                both = self._network(batch.contiguous(memory_format=torch.channels_last))
                logits[first : first + _BATCH] = both.unflatten(0, (2, -1)).mean(0).numpy()
        return logits

    def _checked(self, crop: ImageArray) -> ImageArray:
        check_image(crop)
        if crop.ndim != 2:
            raise ValueError(f"face encoder: crop has shape {crop.shape}; give a grey image [h, w]")
        if crop.shape == (self.side, self.side):
            return crop
        how = self._cv2.INTER_AREA if min(crop.shape) > self.side else self._cv2.INTER_LINEAR
        small: ImageArray = self._cv2.resize(crop, (self.side, self.side), interpolation=how)
        return small
