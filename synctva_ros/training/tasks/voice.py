"""Trains the voice encoder on acted speech.

    synctva train-encoder voice --data DIR --out FOLDER --report PAGE

The speakers are divided into folds. Each member of the network (a part that gets the spectrogram and one that gets the
prosody) hears all folds but one and is evaluated on that one, so all figures are about held-out speakers; the encoder
that is kept is the average of all members. There is no choice of an epoch and none of a member: the figures are
not chosen for their size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from synctva_ros.audio.endpointer import Endpointer
from synctva_ros.config import Turns
from synctva_ros.encoders.audio import as_speech
from synctva_ros.encoders.functionals import AcousticFunctionals
from synctva_ros.encoders.voice_network import (
    LogMel,
    ProsodyNetwork,
    SpectrumNetwork,
    VoiceMember,
    VoiceNetwork,
    VoiceNetworkConfig,
)
from synctva_ros.encoders.weights import save_encoder
from synctva_ros.evaluation.metrics import Scores, score
from synctva_ros.evaluation.report import write_scores
from synctva_ros.events import EMOTIONS, SAMPLE_RATE, AudioChunk, FloatArray
from synctva_ros.sources.media import MediaFile
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.data.registry import licence_of, read_split
from synctva_ros.training.data.voice_augmentation import Distortion, NoVoice
from synctva_ros.training.loop import Task, fit, forget, half_precision, seeded, side_by_side
from synctva_ros.training.recipe import VoiceRecipe, as_settings

NAME = "voice-emotion-1"
#: Sounds that are no voice in a step.
OTHER_SOUNDS = 3
SMOOTHING = 0.1
MIXED = 0.5  # how often the spectrograms of a step are mixed with each other (https://arxiv.org/abs/1710.09412)
# Masks of https://arxiv.org/abs/1904.08779: two of up to so many bands, one of up to so many frames.
MASKED_BANDS, MASKED_FRAMES = 10, 25
# The end-pointer is not always right about start and end [s].
OUTSIDE, INSIDE = 0.25, 0.1
_SHORTEST = 0.3
#: So many recordings are read by several processes: each takes a while to begin.
MANY = 500
# Of the prosody networks: distorted copies of each clip, sounds that are no voice, clips a step, noise in deviations.
COPIES, PROSODY_OTHERS, PROSODY_CLIPS, PROSODY_NOISE = 6, 600, 128, 0.3


@dataclass(frozen=True, eq=False)
class VoiceClip:
    """A recording ``[n]`` at 16 kHz, in which someone speaks from ``start`` to ``end`` [s].

    ``target`` is a distribution over the classes, ``known`` says of which of them its corpus speaks at all.
    """

    file: str
    sound: FloatArray
    start: float
    end: float
    target: FloatArray
    known: NDArray[np.bool_]
    speaker: str
    corpus: str

    @property
    def label(self) -> int:
        """The class that it is most of."""
        return int(self.target.argmax())

    @property
    def person(self) -> str:
        """The speaker, by a name that no speaker of another corpus has."""
        return f"{self.corpus}/{self.speaker}"

    def cut(self, before: float = 0.0, after: float = 0.0) -> FloatArray:
        """The speech and so much around it [s]; negative: less than all of it."""
        first = max(round((self.start - before) * SAMPLE_RATE), 0)
        return self.sound[first : max(round((self.end + after) * SAMPLE_RATE), first + round(_SHORTEST * SAMPLE_RATE))]


def named(corpora: str) -> list[str]:
    """What is written with commas between."""
    return [name.strip() for name in corpora.split(",") if name.strip()]


def read_clips(data: Path, corpora: str) -> list[VoiceClip]:
    """Read the recordings of corpora, named with commas between them, with the bounds of the speech.

    The bounds are those that the live graph finds; where it finds no speech (whispering), those of the loud part.

    Raises:
        ValueError: there is no such corpus, it is none of voices, its table is not as it should be, or there is nothing
            to hear in a file.
        SourceError: a file of sound cannot be read.
    """
    wanted = []
    for name in named(corpora):
        split = read_split(data, name, "train")
        if split.corpus.kind != "voice":
            raise ValueError(f"{name} is a corpus of kind {split.corpus.kind}: give corpora of voices")
        targets, known = split.targets()
        wanted += [
            (item, item.path, target, known, name)
            for item, target in zip(split.items, targets, strict=True)
            if item.path is not None and np.isfinite(target).all()
        ]
    workers = (os.cpu_count() or 1) if len(wanted) >= MANY else 1
    heard = side_by_side(_hear, [(path,) for _, path, *_ in wanted], workers)
    return [
        VoiceClip(item.id, sound, start, end, target, known, item.person, name)
        for (item, _, target, known, name), (sound, start, end) in zip(wanted, heard, strict=True)
    ]


def _hear(path: Path) -> tuple[FloatArray, float, float]:
    media = MediaFile(path, video_rate=0.0)
    endpointer = Endpointer(Turns(speculate=False, provisional_interval=0.0))
    utterances, parts, rate = [], [], SAMPLE_RATE
    for item in media.play(0):
        if isinstance(item, AudioChunk):
            utterances += endpointer.push(item)
            parts.append(item.samples.mean(axis=1))
            rate = item.sample_rate
    utterances += endpointer.flush()
    sound = np.concatenate([np.zeros(0, np.float32), *parts])
    if rate != SAMPLE_RATE:
        from scipy import signal

        sound = signal.resample_poly(sound, SAMPLE_RATE, rate).astype(np.float32)
    if len(sound) < round(_SHORTEST * SAMPLE_RATE) or as_speech(sound, SAMPLE_RATE) is None:
        raise ValueError(f"{path} is silent or shorter than {_SHORTEST} s: take it out of the table")
    start, end = (utterances[0].stream_start, utterances[-1].stream_end) if utterances else (0.0, 0.0)
    if end - start < _SHORTEST:
        energy = np.convolve(np.square(sound), np.ones(SAMPLE_RATE // 20), "same")
        loud = np.flatnonzero(energy >= energy.max() * 1e-3)
        start, end = loud[0] / SAMPLE_RATE, loud[-1] / SAMPLE_RATE
    return sound, float(start), float(end)


def fold_of(clips: Sequence[VoiceClip], folds: int) -> IntArray:
    """The fold of each clip ``[n]``: the speakers of each corpus are divided into blocks in the order of their names.

    Raises:
        ValueError: there are fewer speakers than folds.
    """
    people = sorted({(clip.corpus, clip.person) for clip in clips}, key=lambda who: (who[0], len(who[1]), who[1]))
    if not 2 <= folds <= len(people):
        raise ValueError(f"{len(people)} speakers cannot be divided into {folds} folds: give 2 to {len(people)}")
    number: dict[str, int] = {}
    for corpus in dict.fromkeys(corpus for corpus, _ in people):
        speakers = [person for name, person in people if name == corpus]
        # A corpus with few speakers begins where the one before has ended, so that no fold is left without any.
        first = len(number)
        for fold, block in enumerate(np.array_split(np.array(speakers), folds)):
            number |= {str(person): (fold if len(speakers) >= folds else fold + first) % folds for person in block}
    return np.array([number[clip.person] for clip in clips])


@dataclass(frozen=True, eq=False)
class Targets:
    """What is wanted of n clips: a distribution over the classes, and over which of them it speaks.

    A corpus without surprise says nothing about surprise: its clips have no loss there.
    """

    wanted: Tensor  # [n, classes], each row as heavy as the clip counts
    known: Tensor  # [n, classes]

    @classmethod
    def of(cls, clips: Sequence[VoiceClip]) -> Targets:
        """All classes together as heavy as each other."""
        labels = torch.tensor([clip.label for clip in clips])
        count = torch.bincount(labels, minlength=len(EMOTIONS)).float()
        weight = torch.where(count > 0, count.mean() / count.clamp_min(1), 0.0)
        wanted = torch.from_numpy(np.stack([clip.target for clip in clips])) * weight[labels].unsqueeze(1)
        return cls(wanted, torch.from_numpy(np.stack([clip.known for clip in clips])))

    def __getitem__(self, rows: Any) -> Targets:
        return Targets(self.wanted[rows], self.known[rows])

    def repeated(self, times: int) -> Targets:
        """The same so many times."""
        return Targets(self.wanted.repeat(times, 1), self.known.repeat(times, 1))

    def and_nothing(self, count: int) -> Targets:
        """With so many behind them that are no voice: nothing can be said."""
        nothing = torch.full((count, len(EMOTIONS)), 1.0 / len(EMOTIONS))
        return Targets(torch.cat([self.wanted, nothing]), torch.cat([self.known, nothing > 0]))

    def mixed(self, share: float, partner: Tensor) -> Targets:
        """Mixed with each other (https://arxiv.org/abs/1710.09412)."""
        wanted = share * self.wanted + (1 - share) * self.wanted[partner]
        return Targets(wanted, self.known | self.known[partner])

    def loss(self, logits: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy over the classes that are known."""
        classes = self.known.float() / self.known.sum(dim=1, keepdim=True)
        wanted = (1 - smoothing) * self.wanted + smoothing * self.wanted.sum(dim=1, keepdim=True) * classes
        likely = torch.log_softmax(logits.masked_fill(~self.known, -torch.inf), dim=1).masked_fill(~self.known, 0.0)
        return -(wanted * likely).sum(dim=1).mean()


class SpectrumTask(Task):
    """The part of a member that gets the spectrogram.

    Args:
        recipe: of the training.
        network: the part.
        log_mel: makes the spectrograms.
        clips: those that it hears.
        rng: see :class:`Task`.
    """

    def __init__(
        self,
        recipe: VoiceRecipe,
        network: SpectrumNetwork,
        log_mel: LogMel,
        clips: Sequence[VoiceClip],
        rng: np.random.Generator,
    ) -> None:
        self.network, self.log_mel, self.clips, self.rng = network, log_mel, clips, rng
        self.targets = Targets.of(clips)
        self.size = min(recipe.batch, len(clips))
        self.steps = len(clips) // self.size
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.distort = Distortion([clip.sound for clip in clips], rng)
        self.no_voice = NoVoice(rng)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Targets]]:
        """Spectrograms of distorted clips and of what is no voice, which of their frames are there, what is wanted."""
        rng = self.rng
        for rows in rng.permutation(len(self.clips))[: self.steps * self.size].reshape(-1, self.size):
            sounds = [
                self.distort(self.clips[i].cut(rng.uniform(-INSIDE, OUTSIDE), rng.uniform(-INSIDE, OUTSIDE)))
                for i in rows
            ] + [self.no_voice() for _ in range(OTHER_SOUNDS)]
            mel, there = self.log_mel(*pad(sounds))
            _mask(mel, there, rng)
            targets = self.targets[rows].and_nothing(OTHER_SOUNDS)
            if rng.random() < MIXED:
                share, partner = rng.beta(0.4, 0.4), torch.randperm(len(sounds))
                mel, there = share * mel + (1 - share) * mel[partner], there | there[partner]
                targets = targets.mixed(share, partner)
            yield mel, there, targets

    def loss(self, batch: tuple[Tensor, Tensor, Targets]) -> Tensor:
        """Cross-entropy in half precision."""
        mel, there, targets = batch
        with half_precision():
            logits = self.network(mel.to(memory_format=torch.channels_last), there)
        return targets.loss(logits.float(), SMOOTHING)


class ProsodyTask(Task):
    """The part of a member that gets the functionals.

    Args:
        network: the part.
        functionals: of n clips and their distorted copies ``[copies, n, width]``.
        others: of what is no voice ``[k, width]``.
        targets: of the n clips.
        rng: see :class:`Task`.
    """

    def __init__(
        self,
        network: ProsodyNetwork,
        functionals: FloatArray,
        others: FloatArray,
        targets: Targets,
        rng: np.random.Generator,
    ) -> None:
        self.network, self.rng = network, rng
        self.targets = targets.repeated(len(functionals)).and_nothing(len(others))
        self.vectors = torch.from_numpy(np.concatenate([*functionals, others]))
        network.fit(self.vectors[: len(self.vectors) - len(others)])
        deviation: Any = network.deviation
        self.noise: Tensor = PROSODY_NOISE * deviation
        self.size = min(PROSODY_CLIPS, len(self.vectors))
        self.steps = len(self.vectors) // self.size
        self.optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.1)

    def batches(self) -> Iterator[tuple[Tensor, Targets]]:
        """Noisy functionals, mixed with each other, and what is wanted."""
        for rows in torch.randperm(len(self.vectors))[: self.steps * self.size].view(-1, self.size):
            share, partner = self.rng.beta(0.4, 0.4), torch.randperm(self.size)
            noise = self.noise * torch.randn(self.size, self.vectors.shape[1])
            noisy = self.vectors[rows] + noise
            yield share * noisy + (1 - share) * noisy[partner], self.targets[rows].mixed(share, partner)

    def loss(self, batch: tuple[Tensor, Targets]) -> Tensor:
        """Cross-entropy."""
        vectors, targets = batch
        return targets.loss(self.network(vectors))


def train_voice_encoder(
    data: Path,
    out: Path,
    recipe: VoiceRecipe,
    *,
    seed: int = 0,
    report: Path | None = None,
    progress: bool = True,
) -> Scores:
    """Train and write the encoder's weights.

    Args:
        data: folder with ``speech_emotion``.
        out: gets ``model.safetensors``, ``model.json``, and for each part of each member a folder with its log.
        recipe: of the training.
        seed: of everything that is drawn.
        report: gets a page with plots (HTML).
        progress: show bars.

    Returns:
        Scores of all clips, each as classified by the member that never heard its speaker.

    Raises:
        ValueError: a corpus cannot be used, or the training cannot go on.
        RuntimeError: a recording cannot be read, or eSpeak NG is missing.
    """
    clips = read_clips(data, recipe.corpora)
    fold = fold_of(clips, recipe.folds)
    labels = np.array([clip.label for clip in clips])
    network, probabilities = VoiceTraining(recipe, out, clips, seed, progress).run(fold, recipe.folds)
    persons = [clip.person for clip in clips]
    scores = score(probabilities, labels, EMOTIONS, groups=persons, unit="person")
    figures = {
        "unweighted_recall": round(scores.unweighted_recall, 4),
        "accuracy": round(scores.accuracy, 4),
        "weighted_f1": round(scores.weighted_f1, 4),
    }
    save_encoder(
        network,
        out,
        NAME,
        EMOTIONS,
        {
            "made_with": "synctva train-encoder voice",
            "data": recipe.corpora,
            "licence": licence_of(named(recipe.corpora)),
            "unheard_speakers": [
                sorted({clip.person for clip, mine in zip(clips, fold == number, strict=True) if mine})
                for number in range(recipe.folds)
            ],
            **as_settings(recipe),
            "seed": seed,
            "each_member_on_speakers_it_never_heard": figures,
        },
    )
    for part in out.glob("member-*"):
        forget(part)
    if report is not None:
        write_scores(
            report,
            scores,
            probabilities,
            labels,
            title="Voice encoder on speakers that it never heard",
            subtitle=f"{len(clips)} clips, {recipe.folds} folds over {len({clip.person for clip in clips})} speakers",
            names=EMOTIONS,
            notes=(f"Unweighted average recall {scores.unweighted_recall:.3f}.",),
        )
    return scores


def leave_out(
    data: Path, out: Path, recipe: VoiceRecipe, left_out: str, *, seed: int = 0, progress: bool = True
) -> Scores:
    """Train one member without a corpus or a person, and judge it on what was left out; nothing is kept but figures.

    Args:
        data: as in :func:`train_voice_encoder`.
        out: gets the logs, and the probabilities as ``left-out.npz``.
        recipe: of the training; ``folds`` does not matter.
        left_out: a corpus ("emovo") or a person ("ravdess/02").
        seed: of everything that is drawn.
        progress: show bars.

    Raises:
        ValueError: nothing is left out, or nothing else is left.
    """
    clips = read_clips(data, ",".join(dict.fromkeys([*named(recipe.corpora), left_out.partition("/")[0]])))
    away = np.array([left_out in (clip.corpus, clip.person) for clip in clips])
    if not away.any() or away.all():
        there = ", ".join(sorted({clip.corpus for clip in clips}))
        raise ValueError(
            f"{left_out!r} leaves {'nothing to train on' if away.any() else 'everything'}: give one of several corpora "
            f"({there}) or a person such as {clips[0].person}"
        )
    _, probabilities = VoiceTraining(recipe, out, clips, seed, progress).run(np.where(away, 0, -1), 1)
    labels = np.array([clip.label for clip in clips])[away]
    np.savez(out / "left-out.npz", probabilities=probabilities[away], labels=labels)
    for part in out.glob("member-*"):
        forget(part)
    persons = [clip.person for clip, is_away in zip(clips, away, strict=True) if is_away]
    return score(probabilities[away], labels, EMOTIONS, groups=persons, unit="person")


class VoiceTraining:
    """Members of a voice network, each trained on all clips but those of its fold.

    Args:
        recipe: of the training.
        out: gets a folder for each part of each member.
        clips: all of them.
        seed: of everything that is drawn.
        progress: show bars.
    """

    def __init__(self, recipe: VoiceRecipe, out: Path, clips: Sequence[VoiceClip], seed: int, progress: bool) -> None:
        self.recipe, self.out, self.clips, self.seed, self.progress = recipe, out, clips, seed, progress

    def run(self, fold: IntArray, members: int) -> tuple[VoiceNetwork, FloatArray]:
        """The network, and for each clip ``[n, classes]`` the probabilities of the member that did not hear it."""
        clips = self.clips
        torch.manual_seed(self.seed)
        network = VoiceNetwork(VoiceNetworkConfig(classes=len(EMOTIONS), members=members))
        functionals, others = read_prosody(clips, np.random.default_rng(self.seed))
        probabilities = np.zeros((len(clips), len(EMOTIONS)), np.float32)
        for number, member in enumerate(network.members):
            assert isinstance(member, VoiceMember)
            heard = fold != number
            mine = [clip for clip, is_heard in zip(clips, heard, strict=True) if is_heard]
            unheard = [clip.cut() for clip, is_heard in zip(clips, heard, strict=True) if not is_heard]
            rng = seeded(self.seed + number)
            self._fit(SpectrumTask(self.recipe, member.spectrum, network.log_mel, mine, rng), number, members)
            rng, targets = seeded(self.seed + number), Targets.of(mine)
            self._fit(ProsodyTask(member.prosody, functionals[:, heard], others, targets, rng), number, members)
            network.eval()
            probabilities[~heard] = predict(network, number, unheard)
        return network, probabilities

    def _fit(self, task: SpectrumTask | ProsodyTask, number: int, members: int) -> None:
        schedule, part = self.recipe, "spectrum"
        if isinstance(task, ProsodyTask):
            schedule, part = replace(schedule, epochs=schedule.prosody_epochs, averaging=0.0, clip=0.0), "prosody"
        folder = self.out / f"member-{number + 1}-{part}"
        made_of = {"seed": self.seed, "member": number, "of": members, "clips": len(self.clips)}
        title = f"{part}, member {number + 1} of {members}"
        fit(task, schedule, folder, title, made_of=made_of, progress=self.progress)


def read_prosody(clips: Sequence[VoiceClip], rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Functionals of the clips and distorted copies ``[copies, n, width]``, and of what is no voice ``[k, width]``."""
    functionals = AcousticFunctionals()
    distort, no_voice = Distortion([clip.sound for clip in clips], rng), NoVoice(rng)

    def distorted(clip: VoiceClip) -> FloatArray:
        return distort(clip.cut(rng.uniform(-INSIDE, OUTSIDE), rng.uniform(-INSIDE, OUTSIDE)))

    copies = [[clip.cut() for clip in clips]] + [[distorted(clip) for clip in clips] for _ in range(COPIES)]
    return (
        np.stack([np.stack([functionals.of(_audible(sound)) for sound in sounds]) for sounds in copies]),
        np.stack([functionals.of(_audible(no_voice())) for _ in range(PROSODY_OTHERS)]),
    )


def _audible(sound: FloatArray) -> FloatArray:
    speech = as_speech(sound, SAMPLE_RATE)
    if speech is None:
        raise ValueError("a clip of the corpus is silent: take it out of its table")
    return speech


@torch.inference_mode()
def predict(network: VoiceNetwork, member: int, sounds: Sequence[FloatArray]) -> FloatArray:
    """Probabilities ``[n, classes]`` that one member gives to sounds at 16 kHz."""
    functionals = AcousticFunctionals()
    answers = []
    for sound in sounds:
        speech = _audible(sound)
        mel, there = network.log_mel(*pad([speech]))
        given = torch.from_numpy(functionals.of(speech)).unsqueeze(0)
        answers.append(torch.softmax(network.members[member](mel, there, given), dim=1)[0].double().numpy())
    return np.stack(answers)


def pad(sounds: Sequence[FloatArray]) -> tuple[Tensor, Tensor]:
    """Sounds as one batch ``[n, samples]`` with their lengths ``[n]``, each with deviation 1."""
    length = torch.tensor([len(sound) for sound in sounds])
    batch = torch.zeros(len(sounds), int(length.max()))
    for row, sound in zip(batch, sounds, strict=True):
        row[: len(sound)] = torch.from_numpy(sound / (sound.std() + 1e-6))
    return batch, length


def _mask(mel: Tensor, there: Tensor, rng: np.random.Generator) -> None:
    for spectrogram, kept in zip(mel, there, strict=True):
        for _ in range(2):
            bands = int(rng.integers(0, MASKED_BANDS))
            first = int(rng.integers(0, spectrogram.shape[1] - bands))
            spectrogram[:, first : first + bands] = 0.0
        frames = int(rng.integers(0, MASKED_FRAMES))
        first = int(rng.integers(0, max(1, int(kept.sum()) - frames)))
        spectrogram[:, :, first : first + frames] = 0.0
