"""Trains the network that finds turns, on rooms that are made anew for each step.

    synctva train-encoder segmentation --data DIR --out FOLDER

Beside the turns it learns to tell the voices apart, each person at each speed, of which nothing is kept but what it
does to the layers below: to hear that somebody else begins, the network must know a voice again after half a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    conv1d,
    cross_entropy,
    normalize,
)

from synctva_ros.audio.segmentation_network import FRAME, SegmentationConfig, SegmentationNetwork
from synctva_ros.config import DEMO
from synctva_ros.events import FloatArray
from synctva_ros.training.data import speech_synthesis as synthesis
from synctva_ros.training.data.registry import licence_of
from synctva_ros.training.data.rooms import Room, Rooms
from synctva_ros.training.loop import Task, fit, forget, seeded
from synctva_ros.training.recipe import SegmentationRecipe, as_settings
from synctva_ros.training.tasks.voice import named, read_clips
from synctva_ros.weights.files import halved, write

NAME = "segmentation-1"
#: A change may be heard a frame or two off.
TOLERANCE = (0.3, 0.7, 1.0, 0.7, 0.3)
#: Changes are rare.
CHANGE_WEIGHT = 4.0
#: Frames of one voice alone of which each so many-th is asked for its voice.
EVERY = 3
#: Sharpness of the choice between voices.
SCALE = 20.0
VALIDATION_ROOMS = 48
#: Sentences that a synthetic voice knows.
SENTENCES = 20


class Taught(nn.Module):
    """The network, and what is only needed to teach it: a direction for each voice."""

    def __init__(self, config: SegmentationConfig, voices: int) -> None:
        super().__init__()
        self.network = SegmentationNetwork(config)
        self.voices = nn.Linear(config.voice, voices, bias=False)


Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def as_batch(rooms: Sequence[Room], look_ahead: int) -> Batch:
    """Sound ``[n, samples]``; how many speak, soft changes and voices ``[n, frames - look_ahead]``."""
    change = torch.from_numpy(np.stack([room.change for room in rooms]))
    soft = conv1d(change.unsqueeze(1), torch.tensor(TOLERANCE)[None, None], padding=len(TOLERANCE) // 2).squeeze(1)
    truth = (
        torch.from_numpy(np.stack([room.count for room in rooms])),
        soft.clamp(max=1.0),
        torch.from_numpy(np.stack([room.voice for room in rooms])),
    )
    sound = torch.from_numpy(np.stack([room.sound for room in rooms])).float()
    count, soft, voice = (each[:, : each.shape[1] - look_ahead] for each in truth)
    return sound, count, soft, voice


class SegmentationTask(Task):
    """Turns in rooms.

    Args:
        recipe: of the training.
        people: recordings by person, those that are trained on.
        validation: those of people that are not.
        rng: see :class:`Task`.
    """

    selection = "valid_change"

    def __init__(
        self,
        recipe: SegmentationRecipe,
        people: dict[str, list[FloatArray]],
        validation: dict[str, list[FloatArray]],
        rng: np.random.Generator,
    ) -> None:
        self.recipe, self.rng, self.steps = recipe, rng, recipe.steps
        self.config = SegmentationConfig()
        self.rooms = Rooms(people, rng, recipe.seconds, FRAME)
        self.network = Taught(self.config, len(self.rooms.voices))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        unheard = Rooms(validation, np.random.default_rng(0), recipe.seconds, FRAME)
        made = [unheard() for _ in range(VALIDATION_ROOMS)]
        self.held_out = [as_batch(made[n : n + 8], self.config.look_ahead) for n in range(0, len(made), 8)]

    def batches(self) -> Iterator[Batch]:
        """New rooms."""
        for _ in range(self.steps):
            yield as_batch([self.rooms() for _ in range(self.recipe.batch)], self.config.look_ahead)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropies of the three answers, and of whose voice it is where one person speaks."""
        sound, count, change, voice = batch
        network: SegmentationNetwork = self.network.network  # type: ignore[assignment]
        logits, vectors, _ = network(sound, network.start(len(sound)))
        logits, vectors = logits[:, self.config.look_ahead :], vectors[:, self.config.look_ahead :]
        alone = count == 1
        directions: Tensor = self.network.voices.weight  # type: ignore[union-attr, assignment]
        alike = SCALE * normalize(vectors[alone][::EVERY], dim=1) @ normalize(directions, dim=1).T
        return (
            binary_cross_entropy_with_logits(logits[..., 0], (count > 0).float())
            + binary_cross_entropy_with_logits(logits[..., 1], (count > 1).float())
            + 2.0 * binary_cross_entropy_with_logits(logits[..., 2], change, pos_weight=torch.tensor(CHANGE_WEIGHT))
            + self.recipe.voice_loss * cross_entropy(alike, voice[alone][::EVERY])
        )

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Average precision of each answer, frame by frame."""
        said, true = [], []
        for sound, count, change, _ in self.held_out:
            inner: SegmentationNetwork = network.network  # type: ignore[assignment]
            logits, _, _ = inner(sound, inner.start(len(sound)))
            said.append(logits[:, self.config.look_ahead :].flatten(0, 1))
            true.append(torch.stack([count > 0, count > 1, change > 0.5], dim=-1).flatten(0, 1))
        answers, truth = torch.cat(said).numpy(), torch.cat(true).numpy()
        names = ("valid_front", "valid_overlap", "valid_change")
        return {name: float(average_precision_score(truth[:, n], answers[:, n])) for n, name in enumerate(names)}


def divide(data: Path, corpora: str, held_out: str) -> tuple[dict[str, list[FloatArray]], dict[str, list[FloatArray]]]:
    """The recordings of corpora by person: those to train on, and those of people or corpora that are held out.

    Raises:
        ValueError: a corpus cannot be used, or fewer than two people are in one of the parts.
    """
    out = {name.strip() for name in held_out.split(",") if name.strip()}
    people: dict[str, list[FloatArray]] = {}
    validation: dict[str, list[FloatArray]] = {}
    for clip in read_clips(data, corpora):
        group = validation if out & {clip.corpus, clip.person} else people
        group.setdefault(clip.person, []).append(clip.cut())
    if min(len(people), len(validation)) < 2:
        raise ValueError(
            f"{len(people)} people to train on and {len(validation)} to judge by are too few to talk with each other: "
            "give more corpora, or others for held_out"
        )
    return people, validation


def synthetic_people(number: int, rng: np.random.Generator) -> dict[str, list[FloatArray]]:
    """Recordings of so many voices of eSpeak NG, each another variant, by name.

    A television and another robot speak like this, and so does what somebody tries the package with.

    Raises:
        SynthesisError: eSpeak NG is missing or failed.
    """
    sentences = (DEMO / "sentences.txt").read_text(encoding="utf-8").splitlines()
    people = {}
    for variant in rng.permutation(synthesis.TRAINING_VARIANTS)[:number]:
        voice = f"{rng.choice(synthesis.TRAINING_ACCENTS)}+{variant}"
        speed, pitch = int(rng.integers(*synthesis.SPEEDS)), int(rng.integers(*synthesis.PITCHES))
        spoken = [synthesis.synthesise(str(text), voice, speed, pitch) for text in rng.choice(sentences, SENTENCES)]
        people[f"synthetic/{voice}"] = [sound[slice(*synthesis.speech_bounds(sound))] for sound in spoken]
    return people


def train_segmentation(
    data: Path, out: Path, recipe: SegmentationRecipe, *, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Train the network, and write it.

    Args:
        data: folder with the corpora.
        out: gets the weights and the log.
        recipe: of the training.
        seed: of everything that is drawn.
        progress: show a bar.

    Returns:
        What ``validate`` said of the weights that are kept.

    Raises:
        ValueError: a corpus cannot be used, nobody is held out or left, or the training cannot go on.
        SynthesisError: eSpeak NG is missing or failed.
    """
    people, validation = divide(data, recipe.corpora, recipe.held_out)
    rng = seeded(seed)
    people |= synthetic_people(recipe.synthetic, rng)
    task = SegmentationTask(recipe, people, validation, rng)
    history = fit(task, recipe, out, "segmentation", made_of={"seed": seed}, progress=progress)
    epoch = history.chosen(task.selection)
    figures = {name: round(values[epoch - 1], 4) for name, values in history.columns.items() if "valid" in name}
    network: SegmentationNetwork = task.network.network  # type: ignore[assignment]
    about = {
        "made_with": "synctva train-encoder segmentation",
        "data": recipe.corpora,
        "licence": licence_of(named(recipe.corpora)),
        **as_settings(recipe),
        "seed": seed,
        "epoch": epoch,
        "validation": figures,
    }
    write(out, network.ARCHITECTURE, NAME, halved(network), {"network": vars(network.config), "training": about})
    forget(out)
    return figures
