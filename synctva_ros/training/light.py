"""A light training: one causal network for words, voice and face, in minutes on one CPU core.

    python -m synctva_ros.training.light --data DIR --out FOLDER --cache DIR

There is no corpus here in which words, voice and face of the same person come together. So voices (RAVDESS) and faces
(FER2013) of the same emotion, but of other people, are put beside the words of MELD and DailyDialog, and each epoch
draws anew which modalities an utterance has. The dialogues have no times either: they are drawn too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from synctva_ros.encoders.audio import AudioEncoder
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.network.synctva import MODALITIES, DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, save
from synctva_ros.training.corpora import Corpus, IntArray, as_recognised, read_corpus
from synctva_ros.training.metrics import fit_temperature, score
from synctva_ros.types import EMOTIONS, FloatArray

MODEL_ID = "synctva-light-3"
#: What the text encoder was taught before.
ADAPTER = "text_feelings"
#: Names of the classes in RAVDESS and FER2013. Calm speech is neutral.
NAMES = {
    "calm": "neutral",
    "happy": "joy",
    "sad": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "fearful": "fear",
}
#: These speak only in the validation.
VALIDATION_ACTORS = ("17", "18", "19", "20")
#: Which modalities a dialogue has in training, and how often.
SUBSETS = {"T": 0.5, "TA": 0.1, "TV": 0.1, "TAV": 0.12, "A": 0.06, "V": 0.06, "AV": 0.06}
#: How likely a turn is to be the first of its dialogue: one of these for each dialogue.
CUTS = (0.0, 0.3, 1.0)
WINDOW = 5
DIALOGUES_PER_STEP = 24
VOICES_PER_STEP = 64
FACES_PER_STEP = 160
DROPOUT = 0.4
# What an encoder makes of this is part of the cache's key: a changed encoder must not find its old vectors.
PROBE = np.random.default_rng(0).random(16000, dtype=np.float32)
# Noise added to all vectors, in standard deviations of the training data.
NOISE = 0.2
# A voice or a face in everyday talk says far less than an acted one, and another microphone or camera makes it strange.
# Without these two the network trusts an unknown voice more than plain words, and is sure of it.
DISAGREES = 0.5  # how often a voice or face put beside words is of another emotion (every second time a neutral one)
STRANGE = 0.3  # how often a voice or face gets noise of up to MAX_STRANGE deviations
MAX_STRANGE = 3.0
# Synthetic voices (a television, another robot, a demo) carry no emotion, but sound like one to a network that knows
# actors only. Read aloud by eSpeak NG they stand beside words of any label, and alone with labels drawn at random.
MACHINES = 500
MACHINE = 0.2  # how often a voice beside words is one
MACHINES_PER_STEP = 24


@dataclass(frozen=True)
class Talk:
    """A dialogue: row numbers of its text vectors as written and as a recogniser would write them, speakers, labels."""

    written: IntArray
    plain: IntArray
    words: IntArray
    speakers: IntArray
    labels: IntArray


@dataclass(frozen=True)
class Pool:
    """Vectors ``[n, width]`` of single utterances with their labels ``[n]``."""

    vectors: FloatArray
    labels: IntArray

    def draw(self, labels: IntArray, rng: np.random.Generator) -> FloatArray:
        """One vector of each wanted class, at random."""
        drawn = np.empty((len(labels), self.vectors.shape[1]), np.float32)
        for label in np.unique(labels):
            rows = np.flatnonzero(self.labels == label)
            drawn[labels == label] = self.vectors[rng.choice(rows, int((labels == label).sum()))]
        return drawn

    def balanced(self, count: int, rng: np.random.Generator) -> Pool:
        """``count`` vectors, each class as likely as any other."""
        labels = rng.integers(0, len(EMOTIONS), count)
        return Pool(self.draw(labels, rng), labels)


def class_index(name: str) -> int:
    """Index into ``EMOTIONS`` of a corpus's class name."""
    emotion = NAMES.get(name, name)
    if emotion not in EMOTIONS:
        raise ValueError(f"class {name!r} is none of {', '.join(EMOTIONS)}: say in NAMES which of them it is")
    return EMOTIONS.index(emotion)


def cached(folder: Path, parts: Sequence[str | bytes], make: Callable[[], FloatArray]) -> FloatArray:
    """The array that ``make`` returns, from ``folder`` if it was made from the same parts before."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, make())
    array: FloatArray = np.load(path, allow_pickle=False)
    return array


def read_talks(
    corpus: Corpus, encoder: TextEncoder, cache: Path, emotional: bool = False
) -> tuple[list[Talk], FloatArray]:
    """Dialogues of a corpus and their text vectors; ``emotional``: only those with more than joy in them."""
    usual = [class_index("neutral"), class_index("joy")]
    dialogues = [d for d in corpus.dialogues if not (emotional and np.isin(d.labels, usual).all())]
    rows: dict[str, int] = {}
    talks = []
    for dialogue in dialogues:
        plain = [as_recognised(text) for text in dialogue.texts]
        talks.append(
            Talk(
                written=np.array([rows.setdefault(text, len(rows)) for text in dialogue.texts]),
                plain=np.array([rows.setdefault(text, len(rows)) for text in plain]),
                words=np.array([max(len(text.split()), 1) for text in dialogue.texts]),
                speakers=np.array([dialogue.speakers.index(name) for name in dialogue.speakers]),
                labels=dialogue.labels,
            )
        )
    probe = encoder.encode(["probe"]).tobytes()
    return talks, cached(cache, [encoder.name, probe, *rows], lambda: encoder.encode(list(rows)))


def read_voices(folder: Path, encoder: AudioEncoder, cache: Path, held_out: bool) -> Pool:
    """RAVDESS: the training actors or the held-out ones."""
    import av

    def encode(path: Path) -> FloatArray:
        with av.open(str(path)) as container:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
            frames = [new for old in container.decode(audio=0) for new in resampler.resample(old)]
            frames += resampler.resample(None)
        return encoder.encode(np.concatenate([frame.to_ndarray().ravel() for frame in frames]))

    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        clips = [row for row in csv.DictReader(file) if (row["actor"].zfill(2) in VALIDATION_ACTORS) == held_out]
    paths = [folder / row["file"] for row in clips]
    vectors = cached(
        cache,
        [encoder.name, encoder.encode(PROBE).tobytes(), *(path.read_bytes() for path in paths)],
        lambda: np.stack([encode(path) for path in paths]),
    )
    return Pool(vectors, np.array([class_index(row["emotion"]) for row in clips]))


def read_machines(encoder: AudioEncoder, cache: Path) -> Pool:
    """Synthetic voices; their labels are drawn at random, since they have none."""
    from synctva_ros.training import speech_synthesis as synthesis

    rng = np.random.default_rng(0)
    sentences = (Path(__file__).parent.parent / "demo/sentences.txt").read_text(encoding="utf-8").splitlines()
    readings = [
        (
            str(rng.choice(sentences)),
            str(rng.choice(synthesis.TRAINING_VOICES)),
            int(rng.integers(*synthesis.SPEEDS)),
            int(rng.integers(*synthesis.PITCHES)),
        )
        for _ in range(MACHINES)
    ]

    def encode(text: str, voice: str, speed: int, pitch: int) -> FloatArray:
        samples = synthesis.synthesise(text, voice, speed, pitch)
        begin, end = synthesis.speech_bounds(samples)
        return encoder.encode(samples[begin:end])

    vectors = cached(
        cache,
        [encoder.name, encoder.encode(PROBE).tobytes(), json.dumps(readings)],
        lambda: np.stack([encode(*reading) for reading in readings]),
    )
    return Pool(vectors, rng.permutation(np.arange(MACHINES) % len(EMOTIONS)))


def read_faces(path: Path, encoder: FaceEncoder, cache: Path, mirrored: bool) -> Pool:
    """FER2013 pictures in ``split/class/name.jpg``; ``mirrored``: each also the other way round."""
    import cv2

    def encode() -> FloatArray:
        with zipfile.ZipFile(path) as archive:
            pictures = [cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_GRAYSCALE) for n in names]
        crops = [np.asarray(picture, np.uint8) for picture in pictures]
        if mirrored:
            crops += [crop[:, ::-1].copy() for crop in crops]
        return np.stack([encoder.encode_crop(crop) for crop in crops])

    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
    labels = np.array([class_index(name.split("/")[-2]) for name in names])
    probe = encoder.encode_crop((PROBE[:2304].reshape(48, 48) * 255).astype(np.uint8)).tobytes()
    vectors = cached(cache, [encoder.name, probe, str(mirrored), path.read_bytes()], encode)
    return Pool(vectors, np.tile(labels, 2) if mirrored else labels)


def talk_batch(
    talks: Sequence[Talk],
    text: FloatArray,
    voices: Pool,
    faces: Pool,
    rng: np.random.Generator,
    only: str = "",
    machines: Pool | None = None,
) -> tuple[DialogueBatch, torch.Tensor]:
    """Dialogues as one batch and their labels.

    With ``machines`` some of the voices are synthetic. With ``only`` (such as "TA") all utterances have these
    modalities; without it (for training) modalities, speakers, punctuation and earlier turns are left out at random.
    """
    train = not only
    rows, masks, starts, ends, speakers, index = [], [], [], [], [], []
    next_dialogue = 0
    for talk in talks:
        n = len(talk.labels)
        plain = (rng.random(n) < 0.5) if train else np.zeros(n, bool)
        subset = str(rng.choice(list(SUBSETS), p=list(SUBSETS.values()))) if train else only
        mask = np.tile([letter in subset for letter in "TAV"], (n, 1))
        if train and len(subset) > 1:
            kept = rng.random((n, 3)) < 0.85
            mask = np.where((mask & kept).any(1, keepdims=True), mask & kept, mask)
        # With whole dialogues only, the network learns them by heart and does worse with context than without.
        cuts = rng.random(n) < (rng.choice(CUTS) if train else 0.0)
        unknown = train and rng.random() < 0.3
        duration = 0.2 + 0.3 * talk.words
        start = np.cumsum(np.r_[0.0, duration[:-1]]) + np.cumsum(rng.exponential(0.7, n))
        rows.append(np.where(plain, talk.plain, talk.written))
        masks.append(mask)
        starts.append(start)
        ends.append(start + duration)
        speakers.append(np.full(n, -1) if unknown else talk.speakers)
        index.append(next_dialogue + np.cumsum(cuts))
        next_dialogue = int(index[-1][-1]) + 1
    labels = np.concatenate([talk.labels for talk in talks])
    mask = np.concatenate(masks)
    audio = np.zeros((len(labels), voices.vectors.shape[1]), np.float32)
    vision = np.zeros((len(labels), faces.vectors.shape[1]), np.float32)
    for vectors, pool, column in ((audio, voices, 1), (vision, faces, 2)):
        shown = disagreeing(labels, mask[:, 0], rng) if train else labels
        vectors[mask[:, column]] = pool.draw(shown[mask[:, column]], rng)
    if machines is not None:
        synthetic = mask.all(axis=1, where=[True, True, False]) & (rng.random(len(labels)) < MACHINE)
        audio[synthetic] = machines.draw(rng.integers(0, len(EMOTIONS), int(synthetic.sum())), rng)
    batch = DialogueBatch(
        text=torch.from_numpy(text[np.concatenate(rows)]),
        audio=torch.from_numpy(audio),
        vision=torch.from_numpy(vision),
        mask=torch.from_numpy(mask),
        start=torch.from_numpy(np.concatenate(starts)).float(),
        end=torch.from_numpy(np.concatenate(ends)).float(),
        speaker=torch.from_numpy(np.concatenate(speakers)),
        dialogue=torch.from_numpy(np.concatenate(index)),
    )
    return batch, torch.from_numpy(labels)


def disagreeing(labels: IntArray, beside_words: NDArray[np.bool_], rng: np.random.Generator) -> IntArray:
    """Labels ``[n]`` of what is put beside the words: at random often another one, most often neutral."""
    neutral = EMOTIONS.index("neutral")
    other = np.where(rng.random(len(labels)) < 0.5, neutral, rng.integers(0, len(EMOTIONS), len(labels)))
    return np.where(beside_words & (rng.random(len(labels)) < DISAGREES), other, labels)


def single_batch(pool: Pool, modality: int, widths: Sequence[int]) -> tuple[DialogueBatch, torch.Tensor]:
    """Utterances of one modality, each a dialogue of its own, and their labels."""
    n = len(pool.labels)
    text, audio, vision = (
        torch.from_numpy(pool.vectors) if m == modality else torch.zeros(n, width) for m, width in enumerate(widths)
    )
    mask = torch.zeros(n, 3, dtype=torch.bool)
    mask[:, modality] = True
    return DialogueBatch(
        text, audio, vision, mask, torch.zeros(n), torch.full((n,), 3.0), torch.full((n,), -1), torch.arange(n)
    ), torch.from_numpy(pool.labels)


def joined(batches: Sequence[tuple[DialogueBatch, torch.Tensor]]) -> tuple[DialogueBatch, torch.Tensor]:
    """Several batches as one."""
    offset, dialogues = 0, []
    for batch, _ in batches:
        dialogues.append(batch.dialogue + offset)
        offset = int(dialogues[-1][-1]) + 1
    names = ("text", "audio", "vision", "mask", "start", "end", "speaker")
    parts = {name: torch.cat([getattr(batch, name) for batch, _ in batches]) for name in names}
    return DialogueBatch(**parts, dialogue=torch.cat(dialogues)), torch.cat([labels for _, labels in batches])


def steps(
    talks: list[Talk],
    text: FloatArray,
    voices: Pool,
    faces: Pool,
    machines: Pool,
    widths: Sequence[int],
    rng: np.random.Generator,
) -> Iterator[tuple[DialogueBatch, torch.Tensor]]:
    """One epoch: every dialogue once, in batches, each with voices and faces alone beside them."""
    order = rng.permutation(len(talks))
    noise = [torch.from_numpy(vectors.std(0)) for vectors in (text, voices.vectors, faces.vectors)]
    for first in range(0, len(order), DIALOGUES_PER_STEP):
        chosen = [talks[i] for i in order[first : first + DIALOGUES_PER_STEP]]
        batch, labels = joined(
            [
                talk_batch(chosen, text, voices, faces, rng, machines=machines),
                single_batch(machines.balanced(MACHINES_PER_STEP, rng), 1, widths),
                single_batch(voices.balanced(VOICES_PER_STEP, rng), 1, widths),
                single_batch(faces.balanced(FACES_PER_STEP, rng), 2, widths),
            ]
        )
        for vectors, scale, is_words in zip(
            (batch.text, batch.audio, batch.vision), noise, (True, False, False), strict=True
        ):
            strength = np.full((len(labels), 1), NOISE, np.float32)
            if not is_words:
                strange = rng.random((len(labels), 1)) < STRANGE
                strength = np.where(strange, rng.uniform(NOISE, MAX_STRANGE, strength.shape), strength)
            vectors += torch.from_numpy(strength).float() * scale * torch.randn_like(vectors)
        yield batch, labels


def figures(probabilities: FloatArray, labels: IntArray) -> dict[str, float]:
    """The scores that the weights' description keeps."""
    scores = score(probabilities, labels, EMOTIONS)
    return {
        "utterances": scores.n,
        "accuracy": round(scores.accuracy, 4),
        "weighted_f1": round(scores.weighted_f1, 4),
        "macro_f1": round(scores.macro_f1, 4),
        "calibration_error": round(scores.ece, 4),
    }


def train(data: Path, out: Path, cache: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Train, choose the epoch and the temperature on the validation sets, write the weights and return the figures."""
    began = time.process_time()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    words, voice, face = TextEncoder(adapter=ADAPTER), AudioEncoder(), FaceEncoder()
    erc = data / "erc"
    meld, meld_text = read_talks(read_corpus(erc, "meld", "train"), words, cache)
    daily, daily_text = read_talks(read_corpus(erc, "dailydialog", "train"), words, cache, emotional=True)
    valid, valid_text = read_talks(read_corpus(erc, "meld", "valid"), words, cache)
    ravdess = data / "speech_emotion/ravdess"
    voices, valid_voices = (read_voices(ravdess, voice, cache, held_out) for held_out in (False, True))
    machines = read_machines(voice, cache)
    faces = read_faces(data / "faces/fer2013_train.zip", face, cache, mirrored=True)
    valid_faces = read_faces(data / "faces/fer2013_val.zip", face, cache, mirrored=False)
    shift = len(meld_text)
    talks = meld + [
        Talk(talk.written + shift, talk.plain + shift, talk.words, talk.speakers, talk.labels) for talk in daily
    ]
    text = np.concatenate([meld_text, daily_text])
    print(f"{len(meld)} + {len(daily)} dialogues, {len(voices.labels)} voices, {len(faces.labels)} faces", flush=True)

    widths = (words.width, voice.width, face.width)
    model = SyncTVA(SyncTVAConfig(widths=widths, classes=len(EMOTIONS), window=WINDOW, dropout=DROPOUT))
    for projection, vectors in zip(model.projection, (text, voices.vectors, faces.vectors), strict=True):
        projection.fit(torch.from_numpy(vectors))  # type: ignore[operator]
    composed = {
        subset: talk_batch(valid, valid_text, valid_voices, valid_faces, np.random.default_rng(0), subset)
        for subset in ("T", "TA", "TV", "TAV")
    }
    checks = {
        "words (MELD validation)": composed.pop("T"),
        "voice (RAVDESS, four held-out actors)": single_batch(valid_voices, 1, widths),
        "face (FER2013 validation)": single_batch(valid_faces, 2, widths),
    }
    labels = {name: check[1] for name, check in checks.items()}
    # Rare classes count more, by the square root of how rare they are.
    frequency = np.bincount(np.concatenate([talk.labels for talk in talks]), minlength=len(EMOTIONS))
    weight = torch.from_numpy(np.sqrt(frequency.mean() / frequency)).float()
    per_epoch = -(-len(talks) // DIALOGUES_PER_STEP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * per_epoch)
    best_score, best_epoch, best_state = -1.0, 0, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        for batch, wanted in steps(talks, text, voices, faces, machines, widths, rng):
            loss = cross_entropy(model(batch).logits, wanted, weight=weight)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        reached = {name: figures(p, labels[name].numpy()) for name, p in predict(model, checks).items()}
        score = float(np.mean([figure["weighted_f1"] for figure in reached.values()]))
        print(epoch, round(loss.item(), 3), [f["weighted_f1"] for f in reached.values()], flush=True)
        if score > best_score:
            best_score, best_epoch = score, epoch
            best_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best_state)
    model.eval()
    with torch.inference_mode():
        text_t, voice_t, face_t = (
            fit_temperature(model(batch).logits.double().numpy(), wanted.numpy()) for batch, wanted in checks.values()
        )
    model.temperature = (text_t, voice_t, face_t)
    name, (batch, wanted) = next(iter(checks.items()))
    apart = {name: (replace(batch, dialogue=torch.arange(len(batch))), wanted)}
    training: dict[str, Any] = {
        "made_with": "python -m synctva_ros.training.light",
        "data": "MELD, DailyDialog (dialogues with more than joy), RAVDESS (actors 02 to 16), FER2013",
        "licence": "CC BY-NC-SA 4.0: not for commercial use",
        "epoch": best_epoch,
        "epochs": epochs,
        "seed": seed,
        "cpu_minutes": round((time.process_time() - began) / 60, 1),
        "validation": {name: figures(p, labels[name].numpy()) for name, p in predict(model, checks).items()},
        "validation_without_context": {
            name: figures(p, labels[name].numpy()) for name, p in predict(model, apart).items()
        },
        "validation_composed": {
            name: figures(p, composed[name][1].numpy()) for name, p in predict(model, composed).items()
        },
    }
    names = dict(zip(MODALITIES, (words.name, voice.name, face.name), strict=True))
    save(model, out, Description(MODEL_ID, EMOTIONS, names, training))
    return training


@torch.inference_mode()
def predict(model: SyncTVA, checks: dict[str, tuple[DialogueBatch, torch.Tensor]]) -> dict[str, FloatArray]:
    """Calibrated probabilities ``[n, C]`` for each validation set."""
    model.eval()
    return {name: model.probabilities(model(batch)).double().numpy() for name, (batch, _) in checks.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the shipped network lightly.")
    parser.add_argument("--data", type=Path, required=True, help="folder with erc/, speech_emotion/ and faces/")
    parser.add_argument("--out", type=Path, required=True, help="where model.safetensors and model.json go")
    parser.add_argument("--cache", type=Path, required=True, help="where encoded vectors are kept between runs")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = train(arguments.data, arguments.out, arguments.cache, arguments.epochs, arguments.seed)
    print(json.dumps(training, indent=2))


if __name__ == "__main__":
    main()
