"""Trains the face encoder on FER2013.

    synctva train-encoder face --data DIR --out FOLDER --report PAGE

Each image is turned, moved, lit, blurred and covered anew in every epoch, and every second step mixes its images.
Kept is the running average of the weights after the last epoch: none is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from synctva_ros.encoders.face_network import SIDE, FaceNetwork, FaceNetworkConfig
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.evaluation.metrics import Scores, score
from synctva_ros.evaluation.report import write_scores
from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.training.data.overlap import without_overlap
from synctva_ros.training.data.protocol import Split
from synctva_ros.training.data.registry import find_corpus, read_split
from synctva_ros.training.loop import Task, fit, forget, half_precision, seeded
from synctva_ros.training.recipe import FaceRecipe, as_settings

NAME = "face-expression-1"
SMOOTHING = 0.05
MIXED = 0.5  # how often the images of a step are mixed with each other (https://arxiv.org/abs/1710.09412)
# The network sees a part of this side in training, and does better on whole images for it
# (https://arxiv.org/abs/1906.06423).
PART = 44
TURN, SCALE, STRETCH, SHIFT = 9.0, 0.16, 0.06, 0.12  # degrees; logarithms; share of half the image
GAMMA, SIDE_LIGHT, GRAIN = 0.4, 0.5, 0.08
BLURRED, COVERED = 0.2, 0.4  # how often


def read_faces(data: Path, corpus: str, split: str) -> Split:
    """Read a corpus of faces; the classes are the project's seven, or some of them.

    Raises:
        ValueError: there is no such corpus, it is none of faces, or it cannot be read.
    """
    found = read_split(data, corpus, split)
    if found.corpus.kind != "face":
        raise ValueError(f"{corpus} is a corpus of kind {found.corpus.kind}: give one of faces")
    return found


def as_tensors(faces: Split) -> tuple[Tensor, Tensor]:
    """Images ``[n, 1, 48, 48]`` (uint8) and targets ``[n, classes]``."""
    return torch.from_numpy(faces.images()).unsqueeze(1), torch.from_numpy(faces.targets()[0])


class FaceTask(Task):
    """The face network on labelled images.

    Args:
        recipe: of the training.
        images: ``[n, 1, 48, 48]`` (uint8).
        targets: a distribution over the classes for each, ``[n, classes]``.
        rng: see :class:`Task`; PyTorch's generator must be seeded, for the network is made here.
    """

    def __init__(self, recipe: FaceRecipe, images: Tensor, targets: Tensor, rng: np.random.Generator) -> None:
        self.images, self.targets, self.rng = images, targets, rng
        self.size = min(recipe.batch, len(images))
        self.steps = len(images) // self.size
        self.network: FaceNetwork = FaceNetwork(FaceNetworkConfig(classes=len(EMOTIONS)))
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decayed = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.network.parameters() if parameter.ndim <= 1]
        self.optimizer = torch.optim.SGD(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            momentum=0.9,
            nesterov=True,
        )

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Distorted images, every second batch mixed with itself, and their targets ``[n, classes]``."""
        for rows in torch.randperm(len(self.images))[: self.steps * self.size].view(-1, self.size):
            given = distort(self.images[rows])
            target = self.targets[rows]
            if self.rng.random() < MIXED:
                # Brought to the same deviation first, so that the better lit image does not outdo the other.
                given = (given - given.mean((1, 2, 3), True)) / given.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
                share, partner = self.rng.beta(0.3, 0.3), torch.randperm(self.size)
                given = share * given + (1 - share) * given[partner]
                target = share * target + (1 - share) * target[partner]
            yield given, target

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy in half precision."""
        given, target = batch
        with half_precision():
            logits = self.network(given.to(memory_format=torch.channels_last))
        return nn.functional.cross_entropy(logits.float(), target, label_smoothing=SMOOTHING)


def train_face_encoder(
    data: Path,
    out: Path,
    recipe: FaceRecipe,
    *,
    seed: int = 0,
    report: Path | None = None,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Scores:
    """Train and write the encoder's weights.

    Args:
        data: folder of the data.
        out: gets ``model.safetensors``, ``model.json`` and the log.
        recipe: of the training.
        seed: of everything that is drawn.
        report: gets a page with plots (HTML).
        progress: show a bar.
        say: gets what there is to say of the data.

    Returns:
        Scores on the validation images, which nothing was chosen on.

    Raises:
        ValueError: the corpus cannot be used, or the training cannot go on.
    """
    rng = seeded(seed)
    training, validation = (read_faces(data, recipe.corpus, split) for split in ("train", "valid"))
    images, targets = as_tensors(without_overlap(training, validation, say))
    held_out, wanted = as_tensors(validation)
    labels = wanted.argmax(dim=1).numpy()
    task = FaceTask(recipe, images, targets, rng)
    fit(task, recipe, out, "faces", made_of={"seed": seed, "images": len(images)}, progress=progress)
    probabilities = predict(task.network, held_out)
    scores = score(probabilities, labels, EMOTIONS, unit="picture")
    save_encoder(
        task.network,
        out,
        NAME,
        EMOTIONS,
        {
            "made_with": "synctva train-encoder face",
            "data": f"{recipe.corpus}, training images",
            "licence": find_corpus(recipe.corpus).licence,
            **as_settings(recipe),
            "seed": seed,
            "validation": {
                "accuracy": round(scores.accuracy, 4),
                "unweighted_recall": round(scores.unweighted_recall, 4),
            },
        },
    )
    forget(out)
    if report is not None:
        write_scores(
            report,
            scores,
            probabilities,
            labels,
            title=f"Face encoder on the validation images of {recipe.corpus}",
            subtitle=f"{len(labels)} images that it was not trained on",
            names=EMOTIONS,
            notes=(f"Accuracy {scores.accuracy:.3f}, unweighted average recall {scores.unweighted_recall:.3f}.",),
        )
    return scores


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
