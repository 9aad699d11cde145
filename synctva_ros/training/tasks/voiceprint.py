"""Trains the network that tells voices apart, by what CAM++ says of them and by whose they are.

    synctva train-encoder voiceprint --data DIR --out FOLDER

Each person is three, played slower and faster, as in :mod:`synctva_ros.training.data.rooms`, with a third of the
recordings each; CAM++ says of a clean recording who that would be, and the network is to say the same of a piece of it
in an echo and in noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from synctva_ros.encoders.campplus import CampPlusEncoder, fbank
from synctva_ros.encoders.voiceprint import VoiceprintConfig, VoiceprintNetwork
from synctva_ros.evaluation.metrics import verify
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.data.registry import licence_of
from synctva_ros.training.data.voice_augmentation import Distortion, stretch
from synctva_ros.training.loop import Task, fit, forget, seeded
from synctva_ros.training.recipe import VoiceprintRecipe, as_settings
from synctva_ros.training.tasks.segmentation import divide, synthetic_people
from synctva_ros.training.tasks.voice import named
from synctva_ros.weights.files import halved, write

NAME = "voiceprint-1"
SPEEDS = (0.88, 1.0, 1.14)
#: How far a person's speed sways besides.
JITTER = 0.02
#: So many recordings of a person are heard: the teacher takes its time, and one more says little new.
RECORDINGS = 60
#: The teacher hears so much of a recording [s].
TAUGHT = 4.0
#: Pieces are so long [s]; in validation all are of the second length.
SHORT, LONG, JUDGED = 0.7, 3.0, 2.5
#: Sharpness of the choice between people, and how much closer than the others the right one must be (as a cosine).
SCALE, MARGIN = 30.0, 0.2
#: So much less alike than at the equal error rate are two utterances that still count as one person's: who is already
#: known is compared with all that is known of him, and who seems new may be joined later, but not divided.
LENIENT = 0.1
TEACHER = "teacher.safetensors"

Batch = tuple[Tensor, Tensor, Tensor]


class Teacher(Protocol):
    """Says whose voice it is."""

    def encode(self, samples: FloatArray, sample_rate: int) -> FloatArray | None:
        """A vector of length 1."""


def teach(teacher: Teacher, recordings: Sequence[FloatArray], kept: Path, progress: bool = True) -> FloatArray:
    """What the teacher says of each recording ``[recordings, width]``; of what it says nothing to it is not a number.

    It takes its time, so that it is put down in ``kept`` for when the training is interrupted.
    """
    from tqdm import tqdm

    try:
        said = load_file(kept)["said"]
        if len(said) == len(recordings):
            return said
    except (FileNotFoundError, KeyError, SafetensorError):
        pass
    bar = tqdm(recordings, "teacher", unit="recording", disable=not progress)
    answers = [teacher.encode(sound[: round(TAUGHT * SAMPLE_RATE)], SAMPLE_RATE) for sound in bar]
    width = next(len(answer) for answer in answers if answer is not None)
    said = np.stack([np.full(width, np.nan, np.float32) if answer is None else answer for answer in answers])
    kept.parent.mkdir(parents=True, exist_ok=True)
    save_file({"said": said}, kept)
    return said


class Taught(nn.Module):
    """The network, and what is only needed to teach it: a direction for each voice."""

    def __init__(self, config: VoiceprintConfig, voices: int) -> None:
        super().__init__()
        self.network = VoiceprintNetwork(config)
        self.voices = nn.Linear(config.out, voices, bias=False)


class VoiceprintTask(Task):
    """Voices of people.

    Args:
        recipe: of the training.
        people: recordings by person at a speed, those that are trained on; a person is ``corpus/name``.
        targets: what the teacher said of them, in their order ``[recordings, width]``.
        validation: recordings of people that are not trained on.
        rng: see :class:`Task`.
    """

    selection = "valid_apart"

    def __init__(
        self,
        recipe: VoiceprintRecipe,
        people: Mapping[str, Sequence[FloatArray]],
        targets: FloatArray,
        validation: Mapping[str, Sequence[FloatArray]],
        rng: np.random.Generator,
    ) -> None:
        self.recipe, self.rng, self.steps = recipe, rng, recipe.steps
        self._recordings = [sound for sounds in people.values() for sound in sounds]
        self._names = list(people)
        first = np.cumsum([0, *(len(sounds) for sounds in people.values())])
        self._of = [np.arange(start, end) for start, end in pairwise(first)]
        corpora = [name.partition("/")[0] for name in self._names]
        share = np.array([corpora.count(corpus) ** -0.5 for corpus in corpora])
        self._share = share / share.sum()
        # What all voices share says nothing of any.
        centred = targets - np.nanmean(targets, axis=0)
        self._targets = centred / np.linalg.norm(centred, axis=-1, keepdims=True)
        self._distort = Distortion(self._recordings, rng, JITTER)
        config = VoiceprintConfig(out=targets.shape[-1])
        self.network = Taught(config, len(people))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._held_out = _pieces(validation)

    def batches(self) -> Iterator[Batch]:
        """Filter banks ``[n, frames, 80]``, what the teacher says ``[n, width]`` and numbers of voices ``[n]``."""
        rng = self.rng
        for _ in range(self.steps):
            length = round(SAMPLE_RATE * rng.uniform(SHORT, LONG))
            sounds: list[FloatArray] = []
            said, voices = [], []
            while len(sounds) < self.recipe.batch:
                voice = int(rng.choice(len(self._names), p=self._share))
                recording = int(rng.choice(self._of[voice]))
                if not np.isfinite(target := self._targets[recording]).all():
                    continue
                sounds.append(_piece(self._distort(self._recordings[recording]), length, rng))
                said.append(target)
                voices.append(voice)
            yield fbank(torch.from_numpy(np.stack(sounds))), torch.from_numpy(np.stack(said)), torch.tensor(voices)

    def loss(self, batch: Batch) -> Tensor:
        """How far the vectors are from the teacher's, and from those of the same voice against all others.

        The second is that of Deng et al. 2019 (https://arxiv.org/abs/1801.07698), with the margin on the cosine (Wang
        et al. 2018, https://arxiv.org/abs/1801.05599).
        """
        bands, said, voices = batch
        vectors = self.network.network(bands)  # type: ignore[operator]
        directions: Tensor = self.network.voices.weight  # type: ignore[union-attr, assignment]
        alike = linear(vectors, normalize(directions, dim=1))
        alike = alike - MARGIN * torch.nn.functional.one_hot(voices, alike.shape[1])
        from_teacher = (1.0 - (vectors * said).sum(dim=1)).mean()
        loss: Tensor = self.recipe.teacher_loss * from_teacher
        return loss + self.recipe.voice_loss * cross_entropy(SCALE * alike, voices)

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """How well people who were not heard are told apart, mean over their corpora: 1 - equal error rate."""
        verified = []
        for bands, people in self._held_out:
            inner: VoiceprintNetwork = network.network  # type: ignore[assignment]
            verified.append(verify(torch.cat([inner(part) for part in bands.split(64)]).numpy(), people))
        rate, threshold = np.mean(verified, axis=0)
        return {"valid_apart": 1.0 - float(rate), "valid_threshold": float(threshold)}


def at_speeds(people: Mapping[str, Sequence[FloatArray]], rng: np.random.Generator) -> dict[str, list[FloatArray]]:
    """Three people of each, of at most so many recordings, each of which is played at one of the speeds."""
    played: dict[str, list[FloatArray]] = {}
    for name, sounds in people.items():
        for number, chosen in enumerate(rng.permutation(len(sounds))[:RECORDINGS]):
            speed = SPEEDS[number % len(SPEEDS)]
            played.setdefault(f"{name} x{speed:g}", []).append(stretch(sounds[chosen], speed))
    return played


def _piece(sound: FloatArray, length: int, rng: np.random.Generator) -> FloatArray:
    """A piece of so many samples; what is shorter is said again."""
    sound = np.resize(sound, length) if len(sound) < length else sound
    first = int(rng.integers(0, len(sound) - length + 1))
    return np.asarray(sound[first : first + length], np.float32)


def _pieces(people: Mapping[str, Sequence[FloatArray]], most: int = 20) -> list[tuple[Tensor, IntArray]]:
    """Filter banks and people of each corpus, at most so many recordings of a person."""
    rng = np.random.default_rng(0)
    corpora: dict[str, list[tuple[Tensor, int]]] = {}
    for number, (name, sounds) in enumerate(people.items()):
        for chosen in rng.permutation(len(sounds))[:most]:
            bands = fbank(torch.from_numpy(_piece(sounds[chosen], round(JUDGED * SAMPLE_RATE), rng)))
            corpora.setdefault(name.partition("/")[0], []).append((bands, number))
    made = [(torch.stack([bands for bands, _ in each]), np.array([n for _, n in each])) for each in corpora.values()]
    return [each for each in made if len(set(each[1].tolist())) > 1]


def train_voiceprint(
    data: Path,
    out: Path,
    recipe: VoiceprintRecipe,
    *,
    seed: int = 0,
    progress: bool = True,
    teacher: Teacher | None = None,
) -> float:
    """Train the network, and write it.

    Args:
        data: folder with the corpora.
        out: gets the weights and the log.
        recipe: of the training.
        seed: of everything that is drawn.
        progress: show bars.
        teacher: who says whose voice a recording is; None: CAM++.

    Returns:
        Equal error rate on the people who were held out, mean over their corpora.

    Raises:
        ValueError: a corpus cannot be used, nobody is held out or left, or the training cannot go on.
        SynthesisError: eSpeak NG is missing or failed.
        WeightsError: the teacher is missing.
    """
    teacher = teacher or CampPlusEncoder()  # first: without it nothing else is of use
    people, validation = divide(data, recipe.corpora, recipe.held_out)
    rng = seeded(seed)
    people = at_speeds(people | synthetic_people(recipe.synthetic, rng), rng)
    targets = teach(teacher, [sound for sounds in people.values() for sound in sounds], out / TEACHER, progress)
    task = VoiceprintTask(recipe, people, targets, validation, rng)
    history = fit(task, recipe, out, "voiceprint", made_of={"seed": seed}, progress=progress)
    epoch = history.chosen(task.selection)
    error = round(1.0 - history.columns["valid_apart"][epoch - 1], 4)
    same = round(history.columns["valid_threshold"][epoch - 1] - LENIENT, 3)
    network: VoiceprintNetwork = task.network.network  # type: ignore[assignment]
    about = {
        "made_with": "synctva train-encoder voiceprint",
        "data": recipe.corpora,
        "teacher": getattr(teacher, "name", type(teacher).__name__),
        "licence": licence_of(named(recipe.corpora)),
        **as_settings(recipe),
        "seed": seed,
        "epoch": epoch,
        "validation": {"equal_error_rate": error},
    }
    described = {"network": asdict(network.config), "same": same, "training": about}
    write(out, network.ARCHITECTURE, NAME, halved(network), described)
    forget(out)
    (out / TEACHER).unlink(missing_ok=True)
    return error
