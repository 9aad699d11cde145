"""Trains the voice encoder on acted speech.

    synctva train-encoder audio --data DIR --out FOLDER --report PAGE

The speakers are divided into folds. Each member of the network (a part that gets the spectrogram and one that gets the
prosody) hears all folds but one and is evaluated on that one, so all figures are about held-out speakers; the encoder
that is kept is the average of all members. There is no choice of an epoch and none of a member: the figures are
not chosen for their size.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
from synctva_ros.events import EMOTIONS, SAMPLE_RATE, AudioChunk, FloatArray
from synctva_ros.sources.media import MediaFile
from synctva_ros.training.data.dialogues import IntArray, class_index
from synctva_ros.training.data.voice_augmentation import Distortion, NoVoice
from synctva_ros.training.evaluation.metrics import Scores, score
from synctva_ros.training.evaluation.report import write_scores

NAME = "voice-emotion-1"
#: Where RAVDESS lies in the folder of the data.
CORPUS = "speech_emotion/ravdess"
FOLDS, EPOCHS = 5, 50
CLIPS, OTHER_SOUNDS = 32, 3  # a step
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 2e-3, 0.05, 0.15
AVERAGING = 0.995
SMOOTHING = 0.1
MIXED = 0.5  # how often the spectrograms of a step are mixed with each other (https://arxiv.org/abs/1710.09412)
# Masks of https://arxiv.org/abs/1904.08779: two of up to so many bands, one of up to so many frames.
MASKED_BANDS, MASKED_FRAMES = 10, 25
# The end-pointer is not always right about start and end [s].
OUTSIDE, INSIDE = 0.25, 0.1
_SHORTEST = 0.3
# Of the prosody networks: distorted copies of each clip, sounds that are no voice, epochs, clips a step, noise in
# deviations.
COPIES, PROSODY_OTHERS, PROSODY_EPOCHS, PROSODY_CLIPS, PROSODY_NOISE = 6, 600, 40, 128, 0.3


@dataclass(frozen=True, eq=False)
class VoiceClip:
    """A recording ``[n]`` at 16 kHz, in which someone speaks from ``start`` to ``end`` [s]."""

    file: str
    sound: FloatArray
    start: float
    end: float
    label: int
    speaker: str

    def cut(self, before: float = 0.0, after: float = 0.0) -> FloatArray:
        """The speech and so much around it [s]; negative: less than all of it."""
        first = max(round((self.start - before) * SAMPLE_RATE), 0)
        return self.sound[first : max(round((self.end + after) * SAMPLE_RATE), first + round(_SHORTEST * SAMPLE_RATE))]


def read_clips(folder: Path) -> list[VoiceClip]:
    """Read the recordings that ``labels.csv`` (columns file, emotion, actor) names, with the bounds of the speech.

    The bounds are those that the live graph finds; where it finds no speech (whispering), those of the loud part.

    Raises:
        ValueError: a column or all rows are missing, a class is unknown, or there is nothing to hear in a file.
        SourceError: a file of sound cannot be read.
        OSError: ``labels.csv`` cannot be read.
    """
    table = folder / "labels.csv"
    clips = []
    with table.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        missing = [name for name in ("file", "emotion", "actor") if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{table} has no column {missing[0]!r}: give it the columns file, emotion and actor")
        for row in rows:
            try:
                label = class_index(row["emotion"])
            except ValueError as error:
                raise ValueError(f"{table}, line {rows.line_num}: {error}") from error
            sound, start, end = _hear(folder / row["file"])
            clips.append(VoiceClip(row["file"], sound, start, end, label, row["actor"]))
    if not clips:
        raise ValueError(f"{table} names no file: give the folder of a corpus of speech")
    return clips


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
        raise ValueError(f"{path} is silent or shorter than {_SHORTEST} s: take it out of labels.csv")
    start, end = (utterances[0].stream_start, utterances[-1].stream_end) if utterances else (0.0, 0.0)
    if end - start < _SHORTEST:
        energy = np.convolve(np.square(sound), np.ones(SAMPLE_RATE // 20), "same")
        loud = np.flatnonzero(energy >= energy.max() * 1e-3)
        start, end = loud[0] / SAMPLE_RATE, loud[-1] / SAMPLE_RATE
    return sound, float(start), float(end)


def fold_of(clips: Sequence[VoiceClip], folds: int) -> IntArray:
    """The fold of each clip ``[n]``: its speakers are divided into blocks in the order of their names.

    Raises:
        ValueError: there are fewer speakers than folds.
    """
    speakers = sorted({clip.speaker for clip in clips}, key=lambda name: (len(name), name))
    if not 2 <= folds <= len(speakers):
        raise ValueError(f"{len(speakers)} speakers cannot be divided into {folds} folds: give 2 to {len(speakers)}")
    blocks = np.array_split(np.array(speakers), folds)
    number = {str(name): fold for fold, block in enumerate(blocks) for name in block}
    return np.array([number[clip.speaker] for clip in clips])


def train_voice_encoder(
    data: Path,
    out: Path,
    *,
    folds: int = FOLDS,
    epochs: int = EPOCHS,
    seed: int = 0,
    report: Path | None = None,
    progress: bool = True,
) -> Scores:
    """Train and write the encoder's weights.

    Args:
        data: folder with ``speech_emotion/ravdess``.
        out: gets ``model.safetensors``, ``model.json`` and, while a training goes on, the finished members.
        folds: into how many the speakers are divided; as many members has the network.
        epochs: passes over the clips for each member.
        seed: of everything that is drawn.
        report: gets a page with plots (HTML).
        progress: show bars.

    Returns:
        Scores of all clips, each as classified by the member that never heard its speaker.

    Raises:
        ValueError: the corpus cannot be used.
        RuntimeError: a recording cannot be read, or eSpeak NG is missing.
    """
    clips = read_clips(data / CORPUS)
    fold = fold_of(clips, folds)
    labels = np.array([clip.label for clip in clips])
    torch.manual_seed(seed)
    network = VoiceNetwork(VoiceNetworkConfig(classes=len(EMOTIONS), members=folds))
    functionals, others = read_prosody(clips, np.random.default_rng(seed))
    probabilities = np.zeros((len(clips), len(EMOTIONS)), np.float32)
    for number, member in enumerate(network.members):
        assert isinstance(member, VoiceMember)
        heard = [clip for clip, other in zip(clips, fold != number, strict=True) if other]
        state, kept = out / f"member-{number}.safetensors", _Kept(epochs, seed, folds)
        if not kept.read(state, member):
            rng = np.random.default_rng(seed + number)
            distort = Distortion([clip.sound for clip in heard], rng)
            no_voice = NoVoice(rng)
            torch.manual_seed(seed + number)
            title = f"fold {number + 1} of {folds}"
            _train_spectrum(member.spectrum, network.log_mel, heard, epochs, distort, no_voice, rng, title, progress)
            _train_prosody(member.prosody, functionals[:, fold != number], others, labels[fold != number], rng)
            kept.write(state, member)
        network.eval()
        held_out = np.flatnonzero(fold == number)
        probabilities[held_out] = predict(network, number, [clips[i].cut() for i in held_out])
    scores = score(probabilities, labels, EMOTIONS)
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
            "made_with": "synctva train-encoder audio",
            "data": "RAVDESS speech",
            "licence": "CC BY-NC-SA 4.0: not for commercial use",
            "unheard_speakers": [
                sorted({clip.speaker for clip, mine in zip(clips, fold == number, strict=True) if mine})
                for number in range(folds)
            ],
            "epochs": epochs,
            "seed": seed,
            "each_member_on_speakers_it_never_heard": figures,
        },
    )
    for number in range(folds):
        (out / f"member-{number}.safetensors").unlink()
    if report is not None:
        write_scores(
            report,
            scores,
            probabilities,
            labels,
            title="Voice encoder on speakers that it never heard",
            subtitle=f"{len(clips)} clips, {folds} folds over {len({clip.speaker for clip in clips})} speakers",
            names=EMOTIONS,
            notes=(f"Unweighted average recall {scores.unweighted_recall:.3f}.",),
        )
    return scores


@dataclass(frozen=True)
class _Kept:
    """Members that are finished survive an interruption."""

    epochs: int
    seed: int
    folds: int

    def read(self, path: Path, member: nn.Module) -> bool:
        from safetensors import safe_open

        if not path.is_file():
            return False
        with safe_open(path, "pt") as file:
            if file.metadata() != self._made_with():
                return False
            member.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return True

    def write(self, path: Path, member: nn.Module) -> None:
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        # The spectrum network has its channels last, which the format does not know.
        save_file({name: tensor.contiguous() for name, tensor in member.state_dict().items()}, path, self._made_with())

    def _made_with(self) -> dict[str, str]:
        return {"epochs": str(self.epochs), "seed": str(self.seed), "folds": str(self.folds)}


def _train_spectrum(
    network: SpectrumNetwork,
    log_mel: LogMel,
    clips: Sequence[VoiceClip],
    epochs: int,
    distort: Distortion,
    no_voice: NoVoice,
    rng: np.random.Generator,
    title: str,
    progress: bool,
) -> None:
    """Train one network on its clips; it gets the running average of its weights."""
    from tqdm import tqdm

    labels = torch.tensor([clip.label for clip in clips])
    weight = _weights(labels)
    size = min(CLIPS, len(clips))
    steps = epochs * (len(clips) // size)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps + 1, pct_start=WARM_UP)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval()
    order = np.concatenate([rng.permutation(len(clips))[: len(clips) // size * size] for _ in range(epochs)])
    for step, rows in enumerate(tqdm(order.reshape(-1, size), desc=title, unit="step", disable=not progress)):
        sounds = [distort(clips[i].cut(rng.uniform(-INSIDE, OUTSIDE), rng.uniform(-INSIDE, OUTSIDE))) for i in rows] + [
            no_voice() for _ in range(OTHER_SOUNDS)
        ]
        mel, there = log_mel(*pad(sounds))
        _mask(mel, there, rng)
        target = torch.full((len(sounds), len(EMOTIONS)), 1.0 / len(EMOTIONS))
        wanted = labels[rows]
        target[: len(rows)] = nn.functional.one_hot(wanted, len(EMOTIONS)).float() * weight[wanted].unsqueeze(1)
        if rng.random() < MIXED:
            share, partner = rng.beta(0.4, 0.4), torch.randperm(len(sounds))
            mel, there = share * mel + (1 - share) * mel[partner], there | there[partner]
            target = share * target + (1 - share) * target[partner]
        target = (1 - SMOOTHING) * target + SMOOTHING * target.mean(dim=1, keepdim=True)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(mel.to(memory_format=torch.channels_last), there)
        loss = -(target * torch.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        follow(average, network, min(AVERAGING, (2 + step) / (11 + step)))
    network.load_state_dict(average.state_dict())


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


def _train_prosody(
    network: ProsodyNetwork, functionals: FloatArray, others: FloatArray, labels: IntArray, rng: np.random.Generator
) -> None:
    """Train one network on functionals ``[copies, n, width]`` of n clips, and on those of what is no voice."""
    wanted = torch.from_numpy(np.tile(labels, len(functionals)))
    targets = nn.functional.one_hot(wanted, len(EMOTIONS)).float() * _weights(wanted)
    targets = torch.cat([targets, torch.full((len(others), len(EMOTIONS)), 1.0 / len(EMOTIONS))])
    vectors = torch.from_numpy(np.concatenate([*functionals, others]))
    network.fit(vectors[: len(wanted)])
    size = min(PROSODY_CLIPS, len(vectors))
    steps = PROSODY_EPOCHS * (len(vectors) // size)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps + 1)
    network.train()
    for _ in range(PROSODY_EPOCHS):
        for rows in torch.randperm(len(vectors))[: len(vectors) // size * size].view(-1, size):
            share, partner = rng.beta(0.4, 0.4), torch.randperm(size)
            noisy = vectors[rows] + PROSODY_NOISE * network.deviation * torch.randn(size, vectors.shape[1])
            logits = network(share * noisy + (1 - share) * noisy[partner])
            target = share * targets[rows] + (1 - share) * targets[rows][partner]
            loss = -(target * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _weights(labels: Tensor) -> Tensor:
    """What an example of each class counts ``[classes]``, so that all classes count the same."""
    count = torch.bincount(labels, minlength=len(EMOTIONS)).float()
    return torch.where(count > 0, count.mean() / count.clamp_min(1), 0.0)


def _audible(sound: FloatArray) -> FloatArray:
    speech = as_speech(sound, SAMPLE_RATE)
    if speech is None:
        raise ValueError("a clip of the corpus is silent: leave it out of labels.csv")
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


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move a running average of weights towards the network's."""
    tensors: Any = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    for mean, now in tensors:
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)
