"""Trains the face encoder on FER2013.

    synctva train-encoder face --data DIR --out FOLDER --report PAGE

Each image is turned, moved, lit, blurred and covered anew in every epoch, and every second step mixes its images.
Kept is the running average of the weights after the last epoch: none is chosen.
"""

from __future__ import annotations

import copy
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, one_hot

from synctva_ros.encoders.face_network import SIDE, FaceNetwork, FaceNetworkConfig
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.training.data.dialogues import IntArray, class_index
from synctva_ros.training.evaluation.metrics import Scores, score
from synctva_ros.training.evaluation.report import write_scores
from synctva_ros.training.tasks.voice import follow

NAME = "face-expression-1"
#: Where FER2013 lies in the folder of the data.
TRAINING, VALIDATION = "faces/fer2013_train.zip", "faces/fer2013_val.zip"
EPOCHS, IMAGES = 40, 128
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 0.12, 5e-4, 0.15
AVERAGING = 0.999
SMOOTHING = 0.05
MIXED = 0.5  # how often the images of a step are mixed with each other (https://arxiv.org/abs/1710.09412)
# The network sees a part of this side in training, and does better on whole images for it
# (https://arxiv.org/abs/1906.06423).
PART = 44
TURN, SCALE, STRETCH, SHIFT = 9.0, 0.16, 0.06, 0.12  # degrees; logarithms; share of half the image
GAMMA, SIDE_LIGHT, GRAIN = 0.4, 0.5, 0.08
BLURRED, COVERED = 0.2, 0.4  # how often


def read_images(archive: Path) -> tuple[Tensor, IntArray]:
    """Grey images ``[n, 1, 48, 48]`` (uint8) of ``…/class/name.jpg`` in a ZIP archive, and their classes ``[n]``.

    Raises:
        ValueError: it is no such archive, there is no such image in it or a damaged one, or a class is unknown.
        OSError: the archive cannot be read.
    """
    import cv2

    try:
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if name.endswith((".jpg", ".png")) and "/" in name)
            contents = [file.read(name) for name in names]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is no whole ZIP archive ({error}): fetch it again") from error
    images, labels = [], []
    for name, content in zip(names, contents, strict=True):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE) if content else None
        if image is None:
            raise ValueError(f"{archive}: {name} is no image: fetch the archive again")
        images.append(cv2.resize(image, (SIDE, SIDE)) if image.shape != (SIDE, SIDE) else image)
        try:
            labels.append(class_index(name.split("/")[-2]))
        except ValueError as error:
            raise ValueError(f"{archive}: {name}: {error}") from error
    if not images:
        raise ValueError(f"{archive} holds no image class/name.jpg: give FER2013 as such an archive")
    return torch.from_numpy(np.stack(images)).unsqueeze(1), np.array(labels)


def train_face_encoder(
    data: Path,
    out: Path,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    report: Path | None = None,
    progress: bool = True,
) -> Scores:
    """Train and write the encoder's weights.

    Args:
        data: folder with ``faces/fer2013_train.zip`` and ``faces/fer2013_val.zip``.
        out: gets ``model.safetensors`` and ``model.json``.
        epochs: passes over the images.
        seed: of everything that is drawn.
        report: gets a page with plots (HTML).
        progress: show bars.

    Returns:
        Scores on the validation images, which nothing was chosen on.

    Raises:
        ValueError: an archive holds no such images.
        OSError: an archive cannot be read.
    """
    torch.manual_seed(seed)
    images, wanted = read_images(data / TRAINING)
    held_out, labels = read_images(data / VALIDATION)
    network = FaceNetwork(FaceNetworkConfig(classes=len(EMOTIONS)))
    average = _train(network, images, torch.from_numpy(wanted), epochs, np.random.default_rng(seed), progress)
    probabilities = predict(average, held_out)
    scores = score(probabilities, labels, EMOTIONS)
    save_encoder(
        average,
        out,
        NAME,
        EMOTIONS,
        {
            "made_with": "synctva train-encoder face",
            "data": "FER2013, training images",
            "epochs": epochs,
            "seed": seed,
            "validation": {
                "accuracy": round(scores.accuracy, 4),
                "unweighted_recall": round(scores.unweighted_recall, 4),
            },
        },
    )
    if report is not None:
        write_scores(
            report,
            scores,
            probabilities,
            labels,
            title="Face encoder on FER2013's validation images",
            subtitle=f"{len(labels)} images that it was not trained on",
            names=EMOTIONS,
            notes=(f"Accuracy {scores.accuracy:.3f}, unweighted average recall {scores.unweighted_recall:.3f}.",),
        )
    return scores


def _train(
    network: FaceNetwork, images: Tensor, labels: Tensor, epochs: int, rng: np.random.Generator, progress: bool
) -> FaceNetwork:
    from tqdm import tqdm

    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network)
    size = min(IMAGES, len(images))
    steps = epochs * (len(images) // size)
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        momentum=0.9,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=WARM_UP)
    order = torch.cat([torch.randperm(len(images))[: len(images) // size * size] for _ in range(epochs)])
    for step, rows in enumerate(tqdm(order.view(-1, size), desc="FER2013", unit="step", disable=not progress)):
        given = distort(images[rows])
        target = one_hot(labels[rows], len(EMOTIONS)).float()
        if rng.random() < MIXED:
            # Brought to the same deviation first, so that the better lit image does not outdo the other.
            given = (given - given.mean((1, 2, 3), True)) / given.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
            share, partner = rng.beta(0.3, 0.3), torch.randperm(size)
            given = share * given + (1 - share) * given[partner]
            target = share * target + (1 - share) * target[partner]
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(given.to(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        follow(average, network, min(AVERAGING, (2 + step) / (11 + step)))
    return average.eval()


def distort(images: Tensor) -> Tensor:
    """Other cameras, poses and lights: ``[n, 1, 48, 48]`` (uint8) → ``[n, 1, 44, 44]``, about in [0, 1.5]."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high)

    angle = torch.randn(n).clamp(-2, 2) * math.radians(TURN)
    size = PART / SIDE / uniform(-SCALE, SCALE).exp()
    wider = uniform(-STRETCH, STRETCH).exp()
    mirrored = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    across = torch.stack([cosine * mirrored * wider, -sine, uniform(-SHIFT, SHIFT)], 1)
    down = torch.stack([sine * mirrored * wider, cosine / wider, uniform(-SHIFT, SHIFT)], 1)
    grid = affine_grid(torch.stack([across, down], 1), [n, 1, PART, PART], align_corners=False)
    seen = grid_sample(images.float() / 255, grid, padding_mode="border", align_corners=False)
    seen = seen.clamp_min(1e-3) ** uniform(-GAMMA, GAMMA, 1, 1, 1).exp()
    line = torch.linspace(-1, 1, PART)
    direction = uniform(0, 2 * math.pi, 1, 1, 1)
    slope = direction.cos() * line.view(1, 1, 1, -1) + direction.sin() * line.view(1, 1, -1, 1)
    seen = seen * (1 + uniform(0, SIDE_LIGHT, 1, 1, 1) * slope)
    soft = torch.rand(n) < BLURRED
    if soft.any():
        half = interpolate(seen[soft], scale_factor=0.5, mode="area")
        seen[soft] = interpolate(half, size=(PART, PART), mode="bilinear", align_corners=False)
    seen = seen + GRAIN * uniform(0, 1, 1, 1, 1) ** 3 * torch.randn_like(seen)
    seen = seen.clamp(0, 1.5)
    for row in (torch.rand(n) < COVERED).nonzero()[:, 0].tolist():
        height, width = (int(torch.randint(6, 18, ())) for _ in range(2))
        top, left = int(torch.randint(0, PART - height, ())), int(torch.randint(0, PART - width, ()))
        seen[row, :, top : top + height, left : left + width] = torch.rand(())
    return seen


@torch.inference_mode()
def predict(network: FaceNetwork, images: Tensor) -> FloatArray:
    """Probabilities ``[n, classes]`` of images ``[n, 1, 48, 48]``, each seen as it is and mirrored."""
    parts = []
    for batch in images.float().split(256):
        both = torch.log_softmax(network(batch), 1) + torch.log_softmax(network(batch.flip(3)), 1)
        parts.append(torch.softmax(both / 2, 1).double().numpy())
    return np.concatenate(parts)
