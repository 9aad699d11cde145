"""Trains the shipped weights: one causal network for words, voice and face.

    synctva train --config shipped --data DIR --out FOLDER

There is no free corpus in which words, voice and face of the same person come together. So voices (RAVDESS) and faces
(FER2013) of the same emotion, but of other people, are put beside the words of MELD, DailyDialog and EmoryNLP, and each
epoch draws anew which modalities an utterance has. The dialogues have no times either: they are drawn too.

The network must learn from what the encoders make of held-out speakers, not of those they were trained on. So each
voice is heard by the member of the voice encoder that never heard this speaker (``unheard_speakers`` in its weights),
and the faces are FER2013's validation images, which the face encoder never saw: every second one is trained on here,
the others are kept for validation. Words are read by that training of the text encoder which did not read them, where
its folder has them all (what ``synctva train-encoder text`` wrote; the package has only their average).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from synctva_ros.encoders.audio import AudioEncoder, as_speech
from synctva_ros.encoders.face import FaceEncoder
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.encoders.voice_states import VoiceStatesEncoder
from synctva_ros.evaluation.metrics import fit_temperature, score
from synctva_ros.events import EMOTIONS, MODALITIES, SAMPLE_RATE, FloatArray
from synctva_ros.network.synctva import DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, save
from synctva_ros.training.data.cache import cached
from synctva_ros.training.data.dialogues import Corpus, as_recognised, read_corpus
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.data.text_vectors import cached_vectors
from synctva_ros.training.data.voice_augmentation import Distortion, NoVoice
from synctva_ros.training.loop import Task, fit, forget, seeded
from synctva_ros.training.recipe import RobotRecipe, as_settings
from synctva_ros.training.tasks import face as face_encoder
from synctva_ros.training.tasks.dialogue import erc_folder
from synctva_ros.training.tasks.text import UNREAD_DAILY, unread
from synctva_ros.training.tasks.voice import read_clips
from synctva_ros.weights.files import locate

MODEL_ID = "synctva-1"
#: The corpora of voices and of faces.
VOICES, FACES = "ravdess", "fer2013"
Checked = tuple[DialogueBatch, torch.Tensor]
NEUTRAL = EMOTIONS.index("neutral")
#: EmoryNLP's classes; what has no counterpart (peaceful, powerful) is heard, but not asked for.
EMORYNLP = {"joyful": "joy", "neutral": "neutral", "mad": "anger", "sad": "sadness", "scared": "fear"}
NO_LABEL = -100
#: These speak only in the validation.
VALIDATION_SPEAKERS = ("ravdess/17", "ravdess/18", "ravdess/19", "ravdess/20")
#: Which modalities a dialogue has in training, and how often.
SUBSETS = {"T": 0.6, "TA": 0.1, "TV": 0.1, "TAV": 0.2}
#: How likely a turn is to be the first of its dialogue: one of these for each dialogue.
CUTS = (0.0, 0.0, 0.3)
#: How often words are as a speech recogniser might write them, without punctuation.
RECOGNISED = 0.6
#: Dialogues of DailyDialog for each one of MELD and EmoryNLP in an epoch.
DAILY = 0.1
#: How often someone whose voice shows an emotion keeps a neutral face (as most do while speaking), and the reverse.
NEUTRAL_FACE, NEUTRAL_VOICE = 0.4, 0.15
VOICES_ALONE, FACES_ALONE, FACES_AND_VOICES, ACTED, OTHERS = 48, 64, 48, 48, 36  # a step
COPIES = 4  # distorted copies of each voice and face
NOISE = 0.2  # added to all vectors, in standard deviations of the training data
# A voice or a face in everyday speech says far less than an acted one, and another microphone or camera makes it
# strange. Without these two the network trusts an unknown voice more than plain words, and is sure of it.
DISAGREES = 0.5  # how often a voice or face put beside words is of another emotion (every second time a neutral one)
STRANGE = 0.3  # how often a voice or face says less than it seems to
OTHER_SOUNDS = 500
#: Sounds that are no voice come one after another: nothing in a row is still nothing.
OTHER_TURNS = 3
#: How often a voice beside words is none (a synthetic voice, noise, music).
NO_VOICE = 0.2


@dataclass(frozen=True)
class DialogueRows:
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

    @property
    def clean(self) -> Pool:
        """Without the distorted copies."""
        count = len(self.labels) // (COPIES + 1)
        return Pool(self.vectors[:count], self.labels[:count])

    def draw(self, labels: IntArray, rng: np.random.Generator) -> FloatArray:
        """One vector of each wanted class, at random."""
        drawn = np.empty((len(labels), self.vectors.shape[1]), np.float32)
        for label in np.unique(labels):
            rows = np.flatnonzero(self.labels == label)
            drawn[labels == label] = self.vectors[rng.choice(rows, int((labels == label).sum()))]
        return drawn


@dataclass(frozen=True)
class Material:
    """All that the network learns from."""

    dialogues: list[DialogueRows]
    text: FloatArray
    voices: Pool
    faces: Pool
    others: FloatArray

    @property
    def widths(self) -> tuple[int, int, int]:
        """Of text, audio and vision."""
        return self.text.shape[1], self.voices.vectors.shape[1], self.faces.vectors.shape[1]


def read_dialogues(corpus: Corpus, encoder: TextEncoder, cache: Path | None) -> tuple[list[DialogueRows], FloatArray]:
    """Dialogues of a corpus and their text vectors."""
    rows: dict[str, int] = {}
    known = {number: NO_LABEL for number in range(len(corpus.labels))}
    for number, name in enumerate(corpus.labels):
        name = EMORYNLP.get(name, name)
        known[number] = EMOTIONS.index(name) if name in EMOTIONS else NO_LABEL
    dialogues = []
    for dialogue in corpus.dialogues:
        plain = [as_recognised(text) for text in dialogue.texts]
        dialogues.append(
            DialogueRows(
                written=np.array([rows.setdefault(text, len(rows)) for text in dialogue.texts]),
                plain=np.array([rows.setdefault(text, len(rows)) for text in plain]),
                words=np.array([max(len(text.split()), 1) for text in dialogue.texts]),
                speakers=np.array([dialogue.speakers.index(name) for name in dialogue.speakers]),
                labels=np.array([known[int(label)] for label in dialogue.labels]),
            )
        )
    return dialogues, cached_vectors(encoder, list(rows), cache, progress=False)


def emotional(corpus: Corpus) -> Corpus:
    """Only the dialogues with more than joy in them: five of six utterances of DailyDialog are neutral."""
    usual = [NEUTRAL, EMOTIONS.index("joy")]
    return replace(corpus, dialogues=tuple(d for d in corpus.dialogues if not np.isin(d.labels, usual).all()))


def scenes_of(corpus: Corpus, training: Corpus, held_out: Corpus) -> Corpus:
    """EmoryNLP's scenes that are, by their lines, scenes of MELD's training split.

    Both were made from the same television series. Any other scene may be one of MELD's test split.
    """

    def lines(split: Corpus) -> set[str]:
        return {plain for d in split.dialogues for text in d.texts if len((plain := as_recognised(text)).split()) >= 5}

    heard, forbidden = lines(training), lines(held_out)
    kept = []
    for dialogue in corpus.dialogues:
        long = [plain for text in dialogue.texts if len((plain := as_recognised(text)).split()) >= 5]
        same = sum(line in heard for line in long)
        if same >= max(2, 0.3 * len(long)) and not any(line in forbidden for line in long):
            kept.append(dialogue)
    return replace(corpus, dialogues=tuple(kept))


class Ear(Protocol):
    """What is asked of a voice encoder here."""

    name: str
    training: dict[str, Any]

    def encode(self, samples: FloatArray, sample_rate: int = SAMPLE_RATE) -> FloatArray | None:
        """Vector ``[width]``."""

    def encode_members(self, sound: FloatArray) -> FloatArray:
        """What each member says ``[members, width]``."""


def read_voices(data: Path, encoder: Ear, cache: Path | None, validation: bool) -> Pool:
    """Voices as the encoder hears those of held-out speakers, and behind them distorted copies.

    Where several members have not heard a speaker (one was left without the whole corpus, another without some of its
    people), the copies are heard by one after the other: strangers are of both kinds.

    Raises:
        ValueError: all members of the encoder have heard one of the speakers.
    """
    members: dict[str, list[int]] = {}
    for number, names in enumerate(encoder.training["unheard_speakers"]):
        for name in names:
            members.setdefault(name, []).append(number)
    clips = [clip for clip in read_clips(data, VOICES) if (clip.person in VALIDATION_SPEAKERS) == validation]
    unknown = sorted({clip.person for clip in clips} - members.keys())
    if unknown:
        raise ValueError(f"all members of {encoder.name} have heard the speaker {unknown[0]}: train the encoder here")
    rng = np.random.default_rng(0)
    distort = Distortion([clip.sound for clip in clips], rng)

    def encode() -> FloatArray:
        vectors = []
        for copy in range(COPIES + 1):
            for clip in clips:
                speech = as_speech(distort(clip.cut()) if copy else clip.cut(), SAMPLE_RATE)
                assert speech is not None, f"{clip.file} is silent"
                unheard = members[clip.person]
                vectors.append(encoder.encode_members(speech)[unheard[-1 - copy % len(unheard)]])
        return np.stack(vectors)

    key: list[str | bytes] = [
        encoder.name,
        _probe(encoder),
        f"{validation} {COPIES}",
        *(clip.sound.tobytes() for clip in clips),
    ]
    vectors = cached(cache, key, encode)
    return Pool(vectors, np.tile([clip.label for clip in clips], len(vectors) // len(clips)))


def read_others(encoder: Ear, cache: Path | None) -> FloatArray:
    """What the encoder makes of sounds that are no voice ``[n, width]``."""

    def encode() -> FloatArray:
        no_voice = NoVoice(np.random.default_rng(0))
        vectors = (encoder.encode(no_voice()) for _ in range(OTHER_SOUNDS))
        return np.stack([vector for vector in vectors if vector is not None])

    return cached(cache, ["others", encoder.name, _probe(encoder)], encode)


def read_faces(data: Path, encoder: FaceEncoder, cache: Path | None, validation: bool) -> Pool:
    """Every second image, and behind them distorted copies."""
    images, targets = face_encoder.as_tensors(face_encoder.read_faces(data, FACES, "valid"))
    images, labels = images[int(validation) :: 2], targets.argmax(dim=1).numpy()[int(validation) :: 2]
    torch.manual_seed(0)

    def encode() -> FloatArray:
        views = [images] + [(face_encoder.distort(images) * 170).byte() for _ in range(COPIES)]
        return np.concatenate([encoder.encode(list(view[:, 0].numpy())) for view in views])

    probe = encoder.encode([(PROBE[:2304].reshape(48, 48) * 255).astype(np.uint8)]).tobytes()
    vectors = cached(cache, ["faces", encoder.name, probe, f"{validation} {COPIES}", images.numpy().tobytes()], encode)
    return Pool(vectors, np.tile(labels, len(vectors) // len(labels)))


# What an encoder makes of this is part of the cache's key: a changed encoder must not find its old vectors.
PROBE = np.random.default_rng(0).random(16000, dtype=np.float32)


def _probe(encoder: Ear) -> bytes:
    return np.asarray(encoder.encode(PROBE)).tobytes()


def dialogue_batch(
    dialogues: Sequence[DialogueRows],
    material: Material,
    rng: np.random.Generator,
    only: str = "",
    plain: bool = True,
) -> tuple[DialogueBatch, torch.Tensor]:
    """Dialogues as one batch and their labels.

    With ``only`` (such as "TA") all utterances have these modalities, and the words are as a recogniser writes them or
    as written; without it (for training) modalities, speakers, punctuation and earlier turns are left out at random.
    """
    train = not only
    rows, masks, starts, ends, speakers, index = [], [], [], [], [], []
    next_dialogue = 0
    for dialogue in dialogues:
        n = len(dialogue.labels)
        bare = (rng.random(n) < RECOGNISED) if train else np.full(n, plain)
        subset = str(rng.choice(list(SUBSETS), p=list(SUBSETS.values()))) if train else only
        if (dialogue.labels == NO_LABEL).any():
            subset = "T"  # no voice or face can be found for an unknown emotion
        mask = np.tile([letter in subset for letter in "TAV"], (n, 1))
        if train and len(subset) > 1:
            kept = rng.random((n, 3)) < 0.85
            mask = np.where((mask & kept).any(1, keepdims=True), mask & kept, mask)
        # With whole dialogues only, the network memorises them and does worse with context than without.
        cuts = rng.random(n) < (rng.choice(CUTS) if train else 0.0)
        unknown = train and rng.random() < 0.3
        duration = 0.2 + 0.3 * dialogue.words
        start = np.cumsum(np.r_[0.0, duration[:-1]]) + np.cumsum(rng.exponential(0.7, n))
        rows.append(np.where(bare, dialogue.plain, dialogue.written))
        masks.append(mask)
        starts.append(start)
        ends.append(start + duration)
        speakers.append(np.full(n, -1) if unknown else dialogue.speakers)
        index.append(next_dialogue + np.cumsum(cuts))
        next_dialogue = int(index[-1][-1]) + 1
    labels = np.concatenate([dialogue.labels for dialogue in dialogues])
    mask = np.concatenate(masks)
    _, audio_width, vision_width = material.widths
    audio = np.zeros((len(labels), audio_width), np.float32)
    vision = np.zeros((len(labels), vision_width), np.float32)
    for vectors, pool, column in ((audio, material.voices, 1), (vision, material.faces, 2)):
        expressed = disagreeing(labels, mask[:, 0], rng) if train else labels
        vectors[mask[:, column]] = pool.draw(expressed[mask[:, column]], rng)
    if train:
        none = mask.all(axis=1, where=[True, True, False]) & (rng.random(len(labels)) < NO_VOICE)
        audio[none] = material.others[rng.integers(0, len(material.others), int(none.sum()))]
    batch = DialogueBatch(
        text=torch.from_numpy(material.text[np.concatenate(rows)]),
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
    other = np.where(rng.random(len(labels)) < 0.5, NEUTRAL, rng.integers(0, len(EMOTIONS), len(labels)))
    return np.where(beside_words & (rng.random(len(labels)) < DISAGREES), other, labels)


def shown(labels: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """What voice and face of someone show who feels ``labels [n]``: one of them is often neutral."""
    which = rng.random(len(labels))
    voice = np.where(which < NEUTRAL_VOICE, NEUTRAL, labels)
    face = np.where(which > 1.0 - NEUTRAL_FACE, NEUTRAL, labels)
    return voice, face


def singles(
    widths: Sequence[int], labels: IntArray, turns: int = 1, **vectors: FloatArray
) -> tuple[DialogueBatch, torch.Tensor]:
    """Dialogues of so many turns each; ``vectors`` are given for the modalities that the utterances have."""
    n = len(labels)
    given = [
        torch.from_numpy(vectors[name]) if name in vectors else torch.zeros(n, width)
        for name, width in zip(MODALITIES, widths, strict=True)
    ]
    mask = torch.tensor([name in vectors for name in MODALITIES]).repeat(n, 1)
    start = 4.0 * (torch.arange(n) % turns)
    where = (start, start + 3.0, torch.full((n,), -1), torch.arange(n) // turns)
    return DialogueBatch(given[0], given[1], given[2], mask, *where), torch.from_numpy(labels)


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
    material: Material, rare: Sequence[DialogueRows], size: int, rng: np.random.Generator
) -> Iterator[tuple[DialogueBatch, torch.Tensor, int]]:
    """One epoch: every dialogue of ``material`` once and some of ``rare``, ``size`` a step, single utterances behind.

    Yields:
        A batch, its labels, and how many of its first rows are utterances of dialogues.
    """
    dialogues = list(material.dialogues)
    dialogues += [rare[i] for i in rng.permutation(len(rare))[: round(DAILY * len(dialogues))]]
    widths = material.widths
    neutral = np.concatenate(
        [rows[dialogue.labels == NEUTRAL] for dialogue in dialogues for rows in (dialogue.plain, dialogue.written)]
    )
    scale = [torch.from_numpy(v.std(0)) for v in (material.text, material.voices.vectors, material.faces.vectors)]
    share = np.bincount(material.faces.labels, minlength=len(EMOTIONS)).astype(float)
    order = rng.permutation(len(dialogues))
    for first in range(0, len(order), size):

        def any_class(count: int) -> IntArray:
            return rng.integers(0, len(EMOTIONS), count)

        alone, faces, both, acted = (
            any_class(VOICES_ALONE),
            rng.choice(len(EMOTIONS), FACES_ALONE, p=share / share.sum()),
            any_class(FACES_AND_VOICES),
            any_class(ACTED),
        )
        nothing = any_class(OTHERS)  # labels at random: there is nothing to be heard
        # Neutral words said with emotion: the emotion counts. One of voice and face may be missing.
        voiced = acted[: ACTED // 3], acted[ACTED // 3 : 2 * ACTED // 3], acted[2 * ACTED // 3 :]
        words = [material.text[rng.choice(neutral, len(part))] for part in voiced]
        voices, looks = material.voices, material.faces
        heard, seen = shown(both, rng)
        heard_beside_words, seen_beside_words = shown(voiced[2], rng)
        spoken = dialogue_batch([dialogues[i] for i in order[first : first + size]], material, rng)
        batch, labels = joined(
            [
                spoken,
                singles(widths, alone, audio=voices.draw(alone, rng)),
                singles(widths, faces, vision=looks.draw(faces, rng)),
                singles(widths, both, audio=voices.draw(heard, rng), vision=looks.draw(seen, rng)),
                singles(
                    widths, nothing, OTHER_TURNS, audio=material.others[rng.integers(0, len(material.others), OTHERS)]
                ),
                singles(widths, voiced[0], text=words[0], audio=voices.draw(voiced[0], rng)),
                singles(widths, voiced[1], text=words[1], vision=looks.draw(voiced[1], rng)),
                singles(
                    widths,
                    voiced[2],
                    text=words[2],
                    audio=voices.draw(heard_beside_words, rng),
                    vision=looks.draw(seen_beside_words, rng),
                ),
            ]
        )
        for vectors, deviation, is_words in zip(
            (batch.text, batch.audio, batch.vision), scale, (True, False, False), strict=True
        ):
            if not is_words:
                strange = torch.from_numpy(rng.random((len(labels), 1)) < STRANGE)
                less = torch.from_numpy(rng.uniform(0.2, 1.0, (len(labels), 1))).float()
                vectors *= torch.where(strange, less, 1.0)
                # What an encoder says with little force is often wrong: only so does the network learn to doubt it.
                weak = (strange & (less < torch.from_numpy(rng.random((len(labels), 1))))).squeeze(1)
                vectors[weak] = less[weak] * vectors[torch.randperm(len(labels))][weak]
            vectors += NOISE * deviation * torch.randn_like(vectors)
        yield batch, labels, len(spoken[1])


def figures(probabilities: FloatArray, labels: IntArray) -> dict[str, float]:
    """The scores that the weights' description keeps."""
    scores = score(probabilities, labels, EMOTIONS)
    return {
        "utterances": scores.n,
        "accuracy": round(scores.accuracy, 4),
        "unweighted_recall": round(scores.unweighted_recall, 4),
        "weighted_f1": round(scores.weighted_f1, 4),
        "macro_f1": round(scores.macro_f1, 4),
        "calibration_error": round(scores.ece, 4),
    }


def readers(adapter: str) -> list[TextEncoder]:
    """The trainings of which a text encoder is the average, in order; none where only the average was kept."""
    if not adapter:  # as its authors trained it, on none of these corpora
        return []
    return [TextEncoder(str(path.parent)) for path in sorted(locate(adapter).glob("meld-*/model.json"))]


def unread_words(
    meld: Corpus, emory: Corpus, daily: Corpus, members: Sequence[TextEncoder], average: TextEncoder
) -> list[tuple[int, Corpus, TextEncoder]]:
    """Number of the corpus, a part of it, and the encoder that did not read this part in its training."""
    parts = [(0, unread(meld, number, len(members)), reader) for number, reader in enumerate(members)]
    # A scene of EmoryNLP is one of MELD's, in other words: it is of the share that has most of its lines.
    shares = [{as_recognised(text) for d in part.dialogues for text in d.texts} for _, part, _ in parts]
    of = [
        int(np.argmax([sum(as_recognised(text) in share for text in dialogue.texts) for share in shares]))
        for dialogue in emory.dialogues
    ]
    for number, reader in enumerate(members):
        mine = tuple(d for d, share in zip(emory.dialogues, of, strict=True) if share == number)
        parts.append((1, replace(emory, dialogues=mine), reader))
    parts.append((2, replace(daily, dialogues=daily.dialogues[::UNREAD_DAILY]), average))
    return parts


def read_material(
    data: Path, recipe: RobotRecipe, cache: Path | None
) -> tuple[Material, list[DialogueRows], Material, dict[str, str]]:
    """What is trained on, further dialogues, what is validated on, and the encoders' names."""
    words = TextEncoder(recipe.text_adapter)
    voice = (VoiceStatesEncoder if recipe.audio_encoder == "voice-states" else AudioEncoder)(recipe.audio_weights)
    face = FaceEncoder(recipe.face_weights)
    erc = erc_folder(data)
    meld, valid = (read_corpus(erc, "meld", split) for split in ("train", "valid"))
    emory = scenes_of(read_corpus(erc, "emorynlp", "train"), meld, valid)
    daily = read_corpus(erc, "dailydialog", "train")
    if members := readers(recipe.text_adapter):
        parts = unread_words(meld, emory, daily, members, words)
    else:
        if recipe.text_adapter:
            print(f"{recipe.text_adapter} has only an average: the words are those that it was trained on itself")
        parts = [(number, corpus, words) for number, corpus in enumerate((meld, emory, daily))]
    texts: list[FloatArray] = []
    groups: list[list[DialogueRows]] = [[], [], []]
    shift = 0
    for number, corpus, reader in parts:
        dialogues, vectors = read_dialogues(emotional(corpus) if number == 2 else corpus, reader, cache)
        groups[number] += [
            replace(dialogue, written=dialogue.written + shift, plain=dialogue.plain + shift) for dialogue in dialogues
        ]
        texts.append(vectors)
        shift += len(vectors)
    print(f"{len(groups[0])} + {len(groups[1])} + {len(groups[2])} dialogues", flush=True)
    others = read_others(voice, cache)
    train = Material(
        groups[0] + groups[1],
        np.concatenate(texts),
        read_voices(data, voice, cache, validation=False),
        read_faces(data, face, cache, validation=False),
        others,
    )
    validation = Material(
        *read_dialogues(valid, words, cache),
        read_voices(data, voice, cache, validation=True),
        read_faces(data, face, cache, validation=True),
        others,
    )
    return train, groups[2], validation, dict(zip(MODALITIES, (words.name, voice.name, face.name), strict=True))


@dataclass(frozen=True)
class Checks:
    """What the network is validated on: batches with their labels, by name.

    Attributes:
        chosen_by: the mean weighted F1 of these chooses the epoch.
        composed: further ones.
        calibration: one for each modality; robots' microphones and cameras are worse than the corpora's, so the
            temperatures are those of distorted copies too.
    """

    chosen_by: dict[str, Checked]
    composed: dict[str, Checked]
    calibration: tuple[Checked, ...]

    @classmethod
    def of(cls, valid: Material) -> Checks:
        """The same in each training."""
        rng = np.random.default_rng(0)
        together = rng.integers(0, len(EMOTIONS), 2000)
        clean = replace(valid, voices=valid.voices.clean, faces=valid.faces.clean)
        written, recognised = (dialogue_batch(valid.dialogues, clean, rng, "T", plain) for plain in (False, True))
        widths = valid.widths
        voices = singles(widths, valid.voices.labels, audio=valid.voices.vectors)
        faces = singles(widths, valid.faces.labels, vision=valid.faces.vectors)
        return cls(
            {
                "words as written (MELD validation)": written,
                "words as recognised (MELD validation)": recognised,
                "voice (RAVDESS, four speakers)": singles(widths, clean.voices.labels, audio=clean.voices.vectors),
                "face (FER2013, half of the validation)": singles(
                    widths, clean.faces.labels, vision=clean.faces.vectors
                ),
            },
            {
                "words as recognised, without context": (
                    replace(recognised[0], dialogue=torch.arange(len(recognised[1]))),
                    recognised[1],
                ),
                "voice, distorted": voices,
                "face, distorted": faces,
                "voice and face of different people": singles(
                    widths,
                    together,
                    audio=clean.voices.draw(together, rng),
                    vision=clean.faces.draw(together, rng),
                ),
                "words and voice": dialogue_batch(valid.dialogues, clean, rng, "TA"),
                "words, voice and face": dialogue_batch(valid.dialogues, clean, rng, "TAV"),
            },
            (joined([written, recognised]), voices, faces),
        )


class RobotTask(Task):
    """One causal network for any of words, voice and face.

    Args:
        recipe: of the training.
        material: what it learns from.
        rare: further dialogues, of which each epoch draws some.
        checks: what it is validated on.
        rng: see :class:`Task`; PyTorch's generator must be seeded, for the network is made here.
    """

    selection = "valid_weighted_f1"

    def __init__(
        self,
        recipe: RobotRecipe,
        material: Material,
        rare: Sequence[DialogueRows],
        checks: Checks,
        rng: np.random.Generator,
    ) -> None:
        self.recipe, self.material, self.rare, self.checks, self.rng = recipe, material, rare, checks, rng
        config = SyncTVAConfig(material.widths, len(EMOTIONS), window=recipe.window, dropout=recipe.dropout)
        self.network: SyncTVA = SyncTVA(config)
        given = (material.text, material.voices.vectors, material.faces.vectors)
        for projection, vectors in zip(self.network.projection, given, strict=True):
            projection.fit(torch.from_numpy(vectors))  # type: ignore[operator]
        asked = np.concatenate([dialogue.labels for dialogue in material.dialogues])
        frequency = np.bincount(asked[asked != NO_LABEL], minlength=len(EMOTIONS))
        self.weight = torch.from_numpy((frequency.mean() / frequency) ** recipe.class_weight).float()
        count = len(material.dialogues)
        self.steps = -(-(count + min(len(rare), round(DAILY * count))) // recipe.batch)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )

    def batches(self) -> Iterator[tuple[DialogueBatch, torch.Tensor, int]]:
        """See :func:`steps`."""
        return steps(self.material, self.rare, self.recipe.batch, self.rng)

    def loss(self, batch: tuple[DialogueBatch, torch.Tensor, int]) -> torch.Tensor:
        """Cross-entropy, rare classes of the dialogues heavier."""
        dialogues, wanted, spoken = batch
        # Voices and faces are drawn with the frequency that they shall have.
        counts = torch.cat([self.weight[wanted[:spoken].clamp_min(0)], torch.ones(len(wanted) - spoken)])
        counts = counts * (wanted != NO_LABEL)
        each = cross_entropy(self.network(dialogues).logits, wanted, ignore_index=NO_LABEL, reduction="none")
        total: torch.Tensor = (each * counts).sum() / counts.sum()
        return total

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Weighted F1 of each check by which the epoch is chosen, and their mean."""
        found = predict(network, self.checks.chosen_by)
        reached = {name: figures(p, self.checks.chosen_by[name][1].numpy())["weighted_f1"] for name, p in found.items()}
        return {self.selection: float(np.mean(list(reached.values()))), **reached}


def train(
    data: Path, out: Path, recipe: RobotRecipe, *, cache: Path | None = None, seed: int = 0, progress: bool = True
) -> dict[str, Any]:
    """Train, choose the epoch and the temperatures on the validation sets, and write the weights.

    Args:
        data: folder with ``erc``, ``speech_emotion/ravdess`` and ``faces``.
        out: gets ``model.safetensors``, ``model.json`` and the log.
        recipe: of the training.
        cache: where encoded vectors are kept; None for the user's cache folder.
        seed: of everything that is drawn.
        progress: show a bar.

    Returns:
        What the description says of the training, the figures among it.

    Raises:
        ValueError: the data cannot be used, or the training cannot go on.
    """
    began = time.process_time()
    material, rare, valid, names = read_material(data, recipe, cache)
    checks = Checks.of(valid)
    # Only now, for reading draws random numbers too, and not as many when its vectors are in the cache.
    task = RobotTask(recipe, material, rare, checks, seeded(seed))
    history = fit(task, recipe, out, "the robot's network", made_of={"seed": seed}, progress=progress)
    model = task.network
    with torch.inference_mode():
        text, voice, face = (
            fit_temperature(model(batch).logits.double().numpy(), wanted.numpy())
            for batch, wanted in checks.calibration
        )
    model.temperature = (text, voice, face)
    everything = checks.chosen_by | checks.composed
    training: dict[str, Any] = {
        "made_with": "synctva train --config shipped",
        "data": "MELD, EmoryNLP (scenes of MELD's training split), DailyDialog (dialogues with more than joy), "
        "RAVDESS, FER2013",
        "licence": "CC-BY-NC-SA-4.0 AND LicenseRef-FER2013: not for commercial use",
        "chosen_on": ["meld valid"],
        "epoch": history.chosen(task.selection),
        **as_settings(recipe),
        "seed": seed,
        "cpu_minutes": round((time.process_time() - began) / 60, 1),
        "validation": {name: figures(p, everything[name][1].numpy()) for name, p in predict(model, everything).items()},
    }
    save(model, out, Description(MODEL_ID, EMOTIONS, names, training))
    forget(out)
    return training


@torch.inference_mode()
def predict(model: nn.Module, checks: dict[str, Checked]) -> dict[str, FloatArray]:
    """Calibrated probabilities ``[n, C]`` for each validation set."""
    model.eval()
    return {name: model.probabilities(model(batch)).double().numpy() for name, (batch, _) in checks.items()}  # type: ignore[operator]
