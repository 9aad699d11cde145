"""Trains the voice encoder that hears with the first layers of a recogniser.

    synctva train-encoder voice-states --data DIR --out FOLDER

The layers stay as they are: each clip, and some distorted copies of it, goes through them once, and what is trained are
small heads on what they tell. One member is left without each corpus, and one without each fold of people, so that all
figures are of people who were not heard; the encoder that is kept is the average of all members. There is no choice of
an epoch and none of a member.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synctva_ros.encoders.audio import as_speech
from synctva_ros.encoders.voice_heads import VoiceHead, VoiceHeads, VoiceHeadsConfig
from synctva_ros.encoders.voice_states import TOLD, describe, packaged_states
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.events import EMOTIONS, SAMPLE_RATE, FloatArray
from synctva_ros.training.data.cache import cached
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.data.registry import licence_of
from synctva_ros.training.data.voice_augmentation import Distortion, NoVoice
from synctva_ros.training.loop import Task, fit, forget, seeded, side_by_side
from synctva_ros.training.recipe import VoiceStatesRecipe, as_settings
from synctva_ros.training.tasks.voice import INSIDE, OUTSIDE, VoiceClip, fold_of, named, read_clips

NAME = "voice-states-1"
#: How far speed, pitch and formants of a copy move.
SPEED = 0.1
#: How often a copy is only a part of the clip, and how long that is [s]: people say "yes".
PART, PART_LENGTH = 0.3, (0.4, 1.2)
#: Sounds that are no voice, and how many of them come to each clip of a step.
SOUNDS, NO_VOICE = 600, 0.1
#: Turns that may be known of a person.
TURNS = (1, 2, 4, 8, 16, 32)
#: How often those are all of one emotion: somebody who is angry all evening.
ONE_MOOD = 0.4
#: How often the clip is as it was recorded, where turns of the person are known: they have the same microphone.
SAME_RECORDING = 0.7
_CHUNK = 100


@dataclass(frozen=True, eq=False)
class Told:
    """What the layers tell of n clips, and who speaks.

    Attributes:
        states: of the clips and behind them of their copies ``[copies + 1, n, width]``.
        labels: of the clips ``[n]``.
        known: of which classes their corpus speaks ``[n, classes]``.
        corpora: where they are from ``[n]``.
        persons: who speaks ``[n]``.
        others: for each clip the numbers of the person's other clips.
        no_voice: what the layers tell of sounds without emotion, synthetic voices among them ``[k, width]``.
    """

    states: Tensor
    labels: IntArray
    known: NDArray[np.bool_]
    corpora: NDArray[np.str_]
    persons: NDArray[np.str_]
    others: Sequence[IntArray]
    no_voice: Tensor

    @classmethod
    def of(cls, clips: Sequence[VoiceClip], states: FloatArray, no_voice: FloatArray) -> Told:
        """Of clips, what :func:`describe_all` gives for them, and what :func:`describe_no_voice` gives."""
        persons = np.array([clip.person for clip in clips])
        mine = {name: np.flatnonzero(persons == name) for name in np.unique(persons)}
        return cls(
            torch.from_numpy(states),
            np.array([clip.label for clip in clips]),
            np.stack([clip.known for clip in clips]),
            np.array([clip.corpus for clip in clips]),
            persons,
            [rows[rows != number] for number, rows in enumerate(mine[name] for name in persons)],
            torch.from_numpy(no_voice),
        )


class HeadTask(Task):
    """One head.

    Args:
        recipe: of the training.
        head: the network.
        told: of all clips.
        heard: those that it is trained on ``[k]``.
        moods: the probabilities of the emotions in each of all clips ``[n, classes]``; None: nobody is known.
        rng: see :class:`Task`.
    """

    def __init__(
        self,
        recipe: VoiceStatesRecipe,
        head: VoiceHead,
        told: Told,
        heard: IntArray,
        moods: Tensor | None,
        rng: np.random.Generator,
    ) -> None:
        self.recipe, self.network, self.told, self.heard, self.rng = recipe, head, told, heard, rng
        self.weight, self.moods = torch.from_numpy(weights_of(told, heard)), moods
        self.size = min(recipe.batch, len(heard))
        self.steps = len(heard) // self.size
        self.optimizer = torch.optim.AdamW(head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, IntArray]]:
        """States, what is usual, moods, turns, and the numbers of the clips; behind them sounds that are no voice."""
        told, rng = self.told, self.rng
        for rows in rng.permutation(self.heard)[: self.steps * self.size].reshape(-1, self.size):
            copies = rng.integers(0, len(told.states), self.size)
            copies[rng.random(self.size) < self.recipe.clean] = 0
            usual, moods = torch.zeros(self.size, TOLD), torch.zeros(self.size, len(EMOTIONS))
            turns = torch.zeros(self.size)
            for place, row in enumerate(rows):
                if self.moods is None or rng.random() < self.recipe.strangers:
                    continue
                drawn = self._turns_of(int(row))
                usual[place], moods[place] = told.states[0, drawn].mean(dim=0), self.moods[drawn].mean(dim=0)
                turns[place] = len(drawn)
                if rng.random() < SAME_RECORDING:
                    copies[place] = 0
            none = rng.integers(0, len(told.no_voice), round(NO_VOICE * self.size))
            yield (
                torch.cat([told.states[copies, rows], told.no_voice[none]]),
                torch.cat([usual, torch.zeros(len(none), TOLD)]),
                torch.cat([moods, torch.zeros(len(none), len(EMOTIONS))]),
                torch.cat([turns, torch.zeros(len(none))]),
                rows,
            )

    def _turns_of(self, clip: int) -> IntArray:
        """Some other clips of the person, now and then all of one emotion."""
        others, rng = self.told.others[clip], self.rng
        if rng.random() < ONE_MOOD:
            labels = self.told.labels
            mood = labels[clip] if rng.random() < 0.5 else rng.choice(labels[others])
            others = alike if len(alike := others[labels[others] == mood]) else others
        return rng.choice(others, min(len(others), int(rng.choice(TURNS))), replace=False)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor, IntArray]) -> Tensor:
        """Cross-entropy over the classes that the corpus speaks of; of what is no voice nothing can be said."""
        states, usual, moods, turns, rows = batch
        logits = self.network(states, usual, moods, turns)
        voices, others = logits[: len(rows)], logits[len(rows) :]
        known = torch.from_numpy(self.told.known[rows])
        wanted = torch.from_numpy(self.told.labels[rows])
        each = torch.nn.functional.cross_entropy(voices.masked_fill(~known, -1e4), wanted, reduction="none")
        nothing = -torch.log_softmax(others, dim=1).mean(dim=1)
        loss: Tensor = ((each * self.weight[rows]).sum() + nothing.sum()) / len(logits)
        return loss


def train_voice_states(
    data: Path, out: Path, recipe: VoiceStatesRecipe, *, cache: Path | None = None, seed: int = 0, progress: bool = True
) -> dict[str, float]:
    """Train and write the encoder's weights.

    Args:
        data: folder with ``speech_emotion``.
        out: gets ``model.safetensors``, ``model.json``, and for each member a folder with its log.
        recipe: of the training.
        cache: where what the layers tell is kept; None for the user's cache folder.
        seed: of everything that is drawn.
        progress: show bars.

    Returns:
        Unweighted recall of people that were not heard, by whom was left out (each corpus, and the folds of people) and
        by whether they are strangers or their turns are known, one after another in an order that is drawn.

    Raises:
        ValueError: a corpus cannot be used, or the training cannot go on.
        RuntimeError: eSpeak NG is missing.
        WeightsError: the package that carries the layers is missing.
    """
    packaged_states()  # said before the clips are read, not after
    corpora = named(recipe.corpora)
    clips = read_clips(data, recipe.corpora)
    told = Told.of(clips, describe_all(clips, recipe.copies, cache, seed), describe_no_voice(cache, seed))
    fold = fold_of(clips, recipe.folds)
    unheard = {f"without {name}": told.corpora == name for name in corpora if len(corpora) > 1}
    unheard |= {f"people {number + 1}": fold == number for number in range(recipe.folds)}
    torch.manual_seed(seed)
    network = VoiceHeads(VoiceHeadsConfig(classes=len(EMOTIONS), members=len(unheard), width=TOLD))
    figures: dict[str, float] = {}
    for member, (title, away) in enumerate(unheard.items()):
        head = network.members[member]
        assert isinstance(head, VoiceHead)
        settle(head, told, ~away)
        heard, folder, made_of = np.flatnonzero(~away), out / f"member-{member + 1}", {"seed": seed, "without": title}
        # What the turns of training were like says a head that knows nobody. It has heard them, and so is surer of them
        # than the one that is kept will be of strangers' turns.
        first = VoiceHead(network.config)
        settle(first, told, ~away)
        task = HeadTask(recipe, first, told, heard, None, seeded(seed + 1 + member))
        fit(task, recipe, folder / "moods", f"{title}, moods", made_of=made_of, progress=progress)
        moods = stranger_moods(first, told)
        task = HeadTask(recipe, head, told, heard, moods, seeded(seed + 1 + member))
        fit(task, recipe, folder, title, made_of=made_of, progress=progress)
        forget(folder / "moods")
        for known in (False, True):
            figures[f"{title}, {'known' if known else 'strangers'}"] = round(recall(head, told, away, known, seed), 4)
    about = {
        "made_with": "synctva train-encoder voice-states",
        "data": recipe.corpora,
        "licence": licence_of(corpora),
        "unheard_speakers": [sorted(set(told.persons[away].tolist())) for away in unheard.values()],
        **as_settings(recipe),
        "seed": seed,
        "unweighted_recall": figures,
    }
    save_encoder(network, out, NAME, EMOTIONS, about)
    for part in out.glob("member-*"):
        forget(part)
    return figures


def describe_all(clips: Sequence[VoiceClip], copies: int, cache: Path | None, seed: int) -> FloatArray:
    """What the layers tell of the clips, and behind them of distorted copies ``[copies + 1, n, width]``."""

    def make() -> FloatArray:
        jobs = []
        for copy in range(copies + 1):
            for first in range(0, len(clips), _CHUNK):
                jobs.append((list(clips[first : first + _CHUNK]), copy > 0, seed + copy * len(clips) + first))
        workers = (os.cpu_count() or 1) if len(clips) >= _CHUNK else 1
        parts = list(side_by_side(_describe, jobs, workers))
        return np.concatenate(parts).reshape(copies + 1, len(clips), TOLD)

    key: list[str | bytes] = ["voice states", f"{copies} {seed}", *(clip.cut().tobytes() for clip in clips)]
    return cached(cache, key, make).astype(np.float32)


def describe_no_voice(cache: Path | None, seed: int) -> FloatArray:
    """What the layers tell of sounds that express nothing ``[k, width]``.

    Raises:
        RuntimeError: eSpeak NG is missing.
    """

    def make() -> FloatArray:
        network, sound = packaged_states(), NoVoice(np.random.default_rng(seed))
        heard = (as_speech(sound(), SAMPLE_RATE) for _ in range(SOUNDS))
        return np.stack([describe(network, speech) for speech in heard if speech is not None])

    return cached(cache, ["voice states of no voice", f"{seed} {SOUNDS}"], make)


def _describe(clips: Sequence[VoiceClip], distorted: bool, seed: int) -> NDArray[np.float16]:
    network, rng = packaged_states(), np.random.default_rng(seed)
    distort = Distortion([clip.sound for clip in clips], rng, SPEED)
    told = []
    for clip in clips:
        speech = as_speech(clip.cut(), SAMPLE_RATE)
        if distorted:
            sound = clip.cut(rng.uniform(-INSIDE, OUTSIDE), rng.uniform(-INSIDE, OUTSIDE))
            length = round(rng.uniform(*PART_LENGTH) * SAMPLE_RATE)
            if rng.random() < PART and len(sound) > length:
                first = int(rng.integers(len(sound) - length))
                sound = sound[first : first + length]
            changed = as_speech(distort(sound), SAMPLE_RATE)
            speech = speech if changed is None else changed
        if speech is None:
            raise ValueError(f"{clip.file} is silent: take it out of its table")
        told.append(describe(network, speech).astype(np.float16))
    return np.stack(told)


def weights_of(told: Told, heard: IntArray) -> FloatArray:
    """How much each clip counts ``[n]``: all corpora the same, and in each all classes the same; 1 on average."""
    weight = np.zeros(len(told.labels), np.float32)
    is_heard = np.isin(np.arange(len(weight)), heard)
    for name in np.unique(told.corpora[heard]):
        mine = is_heard & (told.corpora == name)
        there = np.unique(told.labels[mine])
        for number in there:
            some = mine & (told.labels == number)
            weight[some] = 1.0 / (len(there) * some.sum())
    weight *= len(heard) / weight.sum()
    return weight


@torch.no_grad()
def settle(head: VoiceHead, told: Told, heard: NDArray[np.bool_]) -> None:
    """Set mean and deviation of the states, and how far each emotion moves them from what is usual for a person."""
    states = told.states[:, heard].flatten(0, 1)
    head.mean.copy_(states.mean(dim=0))
    head.deviation.copy_(states.std(dim=0) + 1e-3)
    standard, labels, persons = head.standard(told.states[0, heard]), told.labels[heard], told.persons[heard]
    for name in np.unique(persons):
        mine = persons == name
        standard[mine] -= standard[mine].mean(dim=0)
    for number in np.unique(labels):
        head.moved[number] = standard[labels == number].mean(dim=0)


@torch.inference_mode()
def stranger_moods(head: VoiceHead, told: Told) -> Tensor:
    """Probabilities ``[n, classes]`` of the clips as recorded, of people of whom nothing is known."""
    head.eval()
    count = len(told.labels)
    nothing = torch.zeros(count, len(EMOTIONS))
    return torch.softmax(head(told.states[0], told.states[0], nothing, torch.zeros(count)), dim=1).clone()


@torch.inference_mode()
def recall(head: VoiceHead, told: Told, away: NDArray[np.bool_], known: bool, seed: int) -> float:
    """Unweighted recall of a head over the clips ``away [n]``, as they were recorded.

    With ``known`` the clips of each person come one after another in an order that is drawn, each with those before it.
    """
    head.eval()
    rows = np.flatnonzero(away)
    usual, turns = torch.zeros(len(rows), TOLD), torch.zeros(len(rows))
    moods = torch.zeros(len(rows), len(EMOTIONS))
    if known:
        given = stranger_moods(head, told)
        place = {int(row): number for number, row in enumerate(np.random.default_rng(seed).permutation(rows))}
        for number, row in enumerate(rows):
            before = [
                int(other) for other in told.others[int(row)] if place.get(int(other), len(rows)) < place[int(row)]
            ]
            if before:
                usual[number], moods[number] = told.states[0, before].mean(dim=0), given[before].mean(dim=0)
                turns[number] = len(before)
    found = head(told.states[0, rows], usual, moods, turns).argmax(dim=1).numpy()
    labels = told.labels[rows]
    return float(np.mean([(found[labels == number] == number).mean() for number in np.unique(labels)]))
