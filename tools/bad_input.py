"""Inputs on which nobody can say what a person feels, and whether ``synctva recognize`` admits it.

    python tools/bad_input.py --out DIR
    synctva recognize DIR --json FILE
    python tools/bad_input.py --out DIR --judge FILE

Everything is made here, the same in each run: sounds by synthesis, speech from the demo dialogue (synthetic voices),
drawings with OpenCV. The photograph that is darkened, blurred, cut and turned is the one in ``--face``, else the
portrait that scikit-image carries in its wheel (an astronaut, NASA, public domain), else a drawn face. That one shows
less: a detector may miss it for being drawn. No corpus is read.

The voice encoder learns from synthetic voices, noise, chords and barks too (:class:`.voice_augmentation.NoVoice`). The
sounds here are made by other code, but they are of the same kinds, so this is a check and not a proof.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from make_dialogue import write_flac
from numpy.typing import NDArray
from scipy import signal

from synctva_ros.config import DEMO
from synctva_ros.events import SAMPLE_RATE, AudioChunk, ImageArray
from synctva_ros.sources.files import match_files, read_image, read_lines
from synctva_ros.sources.media import MediaFile
from synctva_ros.vision.detector import HAAR, FaceDetector

TABLE = "what.csv"
#: From this confidence on, an answer counts as sure.
SURE = 0.5
#: What may be said of an input: nothing at all; nothing or an answer that is not sure; anything without a crash.
NOTHING, UNCERTAIN, ANY = "nothing", "uncertain", "any"
HEIGHT, WIDTH = 480, 640
#: A portrait shows this many heights of the face's box.
PORTRAIT = 2.2
# Grey values of the camera's noise.
_GRAIN = 2.0

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class BadInput:
    """A file of the set, what is in it, and what may be said of it (``NOTHING``, ``UNCERTAIN``, ``ANY``)."""

    file: str
    what: str
    expected: str


@dataclass(frozen=True)
class Verdict:
    """What was said of an input: the surest of its utterances, and whether that is fine.

    Without an utterance ``label`` and ``status`` are empty and ``confidence`` is 0.
    """

    input: BadInput
    utterances: int
    label: str
    confidence: float
    status: str
    fine: bool


def make_bad_input(out: Path, face: Path | None = None) -> list[BadInput]:
    """Write the inputs and ``what.csv`` into a folder, which is created if need be.

    Args:
        out: the folder.
        face: a photograph of one person; None for what is described above.

    Returns:
        What was written, sounds before images.

    Raises:
        SourceError: ``face`` cannot be read.
        ValueError: there is no face in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name, what, expected, sound in _sounds():
        made.append(BadInput(f"{name}.flac", what, expected))
        write_flac(out / made[-1].file, np.clip(sound, -1.0, 1.0).astype(np.float32))
    for name, what, expected, image in _images(_portrait(face)):
        made.append(BadInput(f"{name}.png", what, expected))
        cv2.imwrite(str(out / made[-1].file), image)
    with (out / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(BadInput)], lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, made))
    return made


def judge(out: Path, recognised: Path) -> list[Verdict]:
    """Compare what ``synctva recognize --json`` wrote with what may be said.

    A file without an utterance is not in that output. Whether the command got through stands in its exit status, not
    here.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is malformed, or no utterance is of a file of the set.
    """
    with (out / TABLE).open(encoding="utf-8", newline="") as file:
        inputs = [BadInput(**row) for row in csv.DictReader(file)]
    said: dict[str, list[dict[str, Any]]] = {}
    for number, emotion in read_lines(recognised):
        try:
            said.setdefault(emotion["file"], []).append(emotion)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{recognised}, line {number}: it is no utterance; give what synctva recognize --json wrote"
            ) from error
    meant = match_files([given.file for given in inputs], list(said))
    if not meant:
        raise ValueError(f"{recognised}: no utterance is of a file in {out / TABLE}; recognise the folder {out}")
    return [verdict(given, said.get(meant.get(given.file, ""), [])) for given in inputs]


def verdict(given: BadInput, utterances: list[dict[str, Any]]) -> Verdict:
    """Judge what was said of one input: its lines of JSON, or what ``Recognizer.recognize`` yields."""
    # One that is labelled UNCERTAIN claims nothing, however sure it is.
    claimed = [emotion for emotion in utterances if emotion["status"] != "UNCERTAIN"]
    surest = max(claimed or utterances, key=lambda emotion: float(emotion["confidence"]), default=None)
    if surest is None:
        return Verdict(given, 0, "", 0.0, "", True)
    unsure = not claimed or surest["confidence"] < SURE
    fine = given.expected == ANY or (given.expected == UNCERTAIN and unsure)
    return Verdict(given, len(utterances), surest["label"], float(surest["confidence"]), surest["status"], fine)


def _print(verdicts: list[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "file", "expected", "said", "confidence", "status", "fine")
    for found in verdicts:
        given = found.input
        nothing = "no face" if given.file.endswith(".png") else "no utterance"
        said = f"{found.label} (surest of {found.utterances})" if found.utterances > 1 else found.label
        cells = (said, f"{found.confidence:.2f}", found.status) if found.utterances else (nothing, "", "")
        table.add_row(given.what, given.file, given.expected, *cells, "yes" if found.fine else "NO")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{sum(found.fine for found in verdicts)} of {len(verdicts)} are fine")


def _sounds() -> list[tuple[str, str, str, Samples]]:
    """Name, what it is, what is expected, and the sound ``[n]`` at 16 kHz."""
    anna, ben = (_turns(speaker) for speaker in ("anna", "ben"))
    sentence, other = anna[0], ben[3]
    short = sentence[SAMPLE_RATE // 2 :][: SAMPLE_RATE // 5]
    speech = np.concatenate([turn for pair in zip(anna, ben, strict=False) for turn in pair])
    length = min(len(sentence), len(other))
    phone = signal.butter(4, (300, 3400), "bandpass", fs=SAMPLE_RATE, output="sos")
    # What a telephone codes: 256 levels, the fine ones near zero (mu-law of ITU-T G.711).
    narrow = signal.sosfilt(phone, sentence)
    coded = np.round(127 * np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256)) / 127
    return [
        ("silence", "digital silence", NOTHING, np.zeros(3 * SAMPLE_RATE)),
        ("quiet_room", "a quiet room, noise at -60 dB", NOTHING, _noise(4.0, -60.0, seed=1)),
        ("white_noise", "white noise at -20 dB", UNCERTAIN, _noise(4.0, -20.0, seed=2)),
        ("chords", "chords that die away", UNCERTAIN, _chords()),
        ("melody", "a melody with vibrato in the range of a voice", UNCERTAIN, _melody()),
        ("barks", "a dog that barks", UNCERTAIN, _barks()),
        ("knocks", "someone knocks", UNCERTAIN, _knocks()),
        ("short_speech", "0.2 s of speech, nothing else", UNCERTAIN, short),
        ("short_speech_in_silence", "0.2 s of speech in 2 s of silence", UNCERTAIN, _in_silence(short)),
        ("long_speech", "60 s of speech without a pause", ANY, np.resize(speech, 60 * SAMPLE_RATE)),
        ("two_voices", "two people at once", ANY, _in_silence(sentence[:length] + other[:length])),
        ("clipped_speech", "speech, clipped by 20 dB", ANY, _in_silence(np.clip(20 * sentence, -0.9, 0.9))),
        (
            "quiet_speech",
            "very quiet speech, its peak at -46 dB",
            ANY,
            _in_silence(0.005 * sentence / np.abs(sentence).max()),
        ),
        (
            "telephone",
            "speech over a telephone",
            ANY,
            _in_silence(np.sign(coded) * np.expm1(np.abs(coded) * np.log(256)) / 255),
        ),
        ("crowd", "twelve people who talk at once, at -25 dB", UNCERTAIN, _crowd([*anna, *ben])),
        ("vacuum_cleaner", "a vacuum cleaner", UNCERTAIN, _vacuum_cleaner()),
        ("cough", "someone coughs twice", UNCERTAIN, _bursts(((0.8, 0.28), (1.35, 0.35)), 900.0)),
        ("sneeze", "someone sneezes", UNCERTAIN, _bursts(((1.0, 0.5),), 3500.0)),
        ("laugh", "someone laughs", ANY, _voice(np.tile(np.r_[np.linspace(320, 240, 900), np.zeros(1500)], 9))),
        ("crying", "someone cries", ANY, _voice(np.tile(np.r_[np.linspace(520, 300, 9000), np.zeros(4000)], 4))),
        ("singing", "someone sings", ANY, _voice(np.repeat(220 * 2 ** (np.array([0, 4, 7, 12, 7, 4, 0]) / 12), 9600))),
        ("high_voice", "a child's voice", ANY, _in_silence(signal.resample(sentence, round(len(sentence) / 1.45)))),
        ("whisper", "someone whispers", ANY, _in_silence(_whisper(sentence))),
        ("loudspeaker", "a loudspeaker 3 m away that plays someone", ANY, _in_silence(_loudspeaker(other))),
        (
            "two_voices_long",
            "two people at once for 10 s",
            ANY,
            _in_silence(np.resize(np.concatenate(anna), 160_000) + np.resize(np.concatenate(ben), 160_000)),
        ),
        (
            "two_voices_of_one",
            "one person who imitates another",
            ANY,
            _in_silence(np.concatenate([sentence, signal.resample(anna[1], round(len(anna[1]) / 1.25))])),
        ),
        (
            "gain_change",
            "a gain that falls by 20 dB in mid-turn",
            ANY,
            _in_silence(sentence * np.where(np.arange(len(sentence)) < len(sentence) // 2, 1.0, 0.1)),
        ),
    ]


def _turns(speaker: str) -> list[Samples]:
    """What a speaker of the demo dialogue says, turn by turn."""
    media = MediaFile(DEMO / "dialogue.flac", video_rate=0.0)
    sound = np.concatenate([item.samples[:, 0] for item in media.play(0) if isinstance(item, AudioChunk)])
    turns = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]
    bounds = [
        (round(turn[edge] * SAMPLE_RATE) for edge in ("start", "end")) for turn in turns if turn["speaker"] == speaker
    ]
    return [sound[start:end].astype(np.float64) for start, end in bounds]


def _in_silence(sound: Samples) -> Samples:
    """With 0.9 s of a quiet room before and after it: an end-pointer needs to hear the start and the end."""
    quiet = round(0.9 * SAMPLE_RATE)
    padded = np.pad(sound, quiet)
    return np.asarray(padded + _noise(len(padded) / SAMPLE_RATE, -75.0, seed=0))


def _noise(seconds: float, level: float, seed: int) -> Samples:
    """White noise with a root mean square of ``level`` [dB]."""
    return np.random.default_rng(seed).normal(0.0, 10 ** (level / 20), round(seconds * SAMPLE_RATE))


def _tone(frequency: Samples, harmonics: int, falling: float) -> Samples:
    """Harmonics of a frequency ``[n]`` [Hz] that may change, each ``1 / number ** falling`` as strong as the first."""
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    numbers = np.arange(1, harmonics + 1)[:, None]
    heard = numbers * frequency < SAMPLE_RATE / 2
    tone: Samples = (heard * np.sin(numbers * phase) / numbers**falling).sum(axis=0)
    return tone


def _chords() -> Samples:
    """C, A minor, F, G and C on strings that are struck, 1.2 s each."""
    step = round(1.2 * SAMPLE_RATE)
    music = np.zeros(5 * step + SAMPLE_RATE)
    for number, keys in enumerate(((48, 64, 67), (45, 60, 64), (41, 57, 60), (43, 59, 62), (48, 60, 64, 72))):
        time = np.arange(len(music) - number * step) / SAMPLE_RATE
        for key in keys:
            frequency = 440.0 * 2 ** ((key - 69) / 12)
            music[number * step :] += _tone(np.full_like(time, frequency), 10, 1.4) * np.exp(-2.0 * time)
    return np.asarray(0.4 * music / np.abs(music).max())


def _melody() -> Samples:
    """Seven notes from 220 to 392 Hz that glide into each other, with the resonances of a clarinet-like tube."""
    notes = np.array([57, 60, 62, 64, 67, 64, 60])
    length = round(0.45 * SAMPLE_RATE)
    time = np.arange(len(notes) * length) / SAMPLE_RATE
    key = signal.lfilter([0.002], [1.0, -0.998], np.repeat(notes, length) - notes[0]) + notes[0]
    key = key + 0.25 * np.sin(2 * np.pi * 5.5 * time)
    tone = _tone(440.0 * 2 ** ((key - 69) / 12), 12, 1.0) * (1.2 + np.sin(2 * np.pi * time / 0.45 - np.pi / 2))
    tube = signal.butter(1, (300, 1500), "bandpass", fs=SAMPLE_RATE, output="sos")
    music = signal.sosfilt(tube, tone)
    return np.asarray(0.3 * music / np.abs(music).max())


def _barks() -> Samples:
    """Six barks: a rough voice that rises and falls within 0.2 s, through a muzzle's resonances."""
    rng = np.random.default_rng(3)
    sound = _noise(4.5, -60.0, seed=4)
    for first in (0.5, 0.95, 1.9, 2.3, 2.7, 3.6):
        n = round(rng.uniform(0.16, 0.24) * SAMPLE_RATE)
        share = np.linspace(0.0, 1.0, n)
        pitch = rng.uniform(380, 480) * (1.0 + 0.8 * np.sin(np.pi * share)) * (1.0 + 0.05 * rng.standard_normal(n))
        bark = _tone(pitch, 20, 0.7) + 0.8 * rng.standard_normal(n)
        for centre in (900, 2100):
            bark = bark + 2.0 * signal.lfilter(*signal.iirpeak(centre, 4, fs=SAMPLE_RATE), bark)
        bark *= np.sin(np.pi * share) ** 0.5 * np.exp(-2.0 * share)
        start = round(first * SAMPLE_RATE)
        sound[start : start + n] += 0.6 * bark / np.abs(bark).max()
    return sound


def _knocks() -> Samples:
    """Two times four knocks on a wooden door."""
    rng = np.random.default_rng(5)
    sound = _noise(4.0, -60.0, seed=6)
    time = np.arange(round(0.12 * SAMPLE_RATE)) / SAMPLE_RATE
    for first in (0.5, 0.72, 0.95, 1.16, 2.3, 2.51, 2.74, 2.96):
        knock = sum(
            strength * np.exp(-time * fall) * np.sin(2 * np.pi * frequency * rng.uniform(0.97, 1.03) * time)
            for frequency, fall, strength in ((170, 45, 1.0), (410, 70, 0.5), (980, 140, 0.3))
        ) + 0.3 * np.exp(-time * 600) * rng.standard_normal(len(time))
        start = round(first * SAMPLE_RATE)
        sound[start : start + len(time)] += 0.5 * rng.uniform(0.7, 1.0) * knock
    return sound


def _crowd(turns: list[Samples]) -> Samples:
    """Voices at twelve speeds, so that no two are the same person's."""
    rng, n = np.random.default_rng(8), 6 * SAMPLE_RATE
    sound = np.zeros(n)
    for speed in np.linspace(0.8, 1.25, 12):
        voice = np.concatenate([turns[number] for number in rng.permutation(len(turns))])
        sound += np.roll(np.resize(signal.resample(voice, round(len(voice) / speed)), n), int(rng.integers(n)))
    return np.asarray(sound / sound.std() * 10 ** (-25 / 20))


def _vacuum_cleaner() -> Samples:
    """A motor's whine and its harmonics in rushing air, which begins and ends."""
    time = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    runs_up = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.8)
    air = signal.sosfilt(
        signal.butter(1, (200, 4000), "bandpass", fs=SAMPLE_RATE, output="sos"), _noise(6.0, 0.0, seed=9)
    )
    motor = _tone(330.0 * (0.3 + 0.7 * runs_up), 12, 1.0)
    return np.asarray(0.1 * runs_up * (air / air.std() + 0.7 * motor / motor.std()))


def _bursts(when: tuple[tuple[float, float], ...], centre: float) -> Samples:
    """Bursts of breath around a frequency [Hz], each from a second on and for so long [s]."""
    rng, sound = np.random.default_rng(10), _noise(3.0, -70.0, seed=11)
    for first, length in when:
        n, start = round(length * SAMPLE_RATE), round(first * SAMPLE_RATE)
        band = signal.butter(1, (0.4 * centre, min(2.2 * centre, 7500.0)), "bandpass", fs=SAMPLE_RATE, output="sos")
        breath = signal.sosfilt(band, rng.standard_normal(n)) * np.exp(-5 * np.linspace(0, 1, n))
        sound[start : start + n] += 0.5 * breath / np.abs(breath).max()
    return sound


def _voice(pitch: Samples) -> Samples:
    """An open vowel at a pitch [Hz] that may change; without a pitch there is none."""
    smooth = signal.lfilter([0.01], [1.0, -0.99], pitch)
    loud = signal.lfilter([0.005], [1.0, -0.995], pitch > 0)
    sway = 1.0 + 0.02 * np.sin(2 * np.pi * 5.5 * np.arange(len(pitch)) / SAMPLE_RATE)
    tone = _tone(np.maximum(smooth * sway, 60.0), 25, 1.0) * loud
    vowel = sum(
        strength * signal.lfilter(*signal.iirpeak(centre, 6, fs=SAMPLE_RATE), tone)
        for centre, strength in ((750, 1.0), (1200, 0.7), (2600, 0.3))
    )
    return _in_silence(0.3 * vowel / np.abs(vowel).max())


def _whisper(speech: Samples) -> Samples:
    """The envelope of each third of an octave of speech, on noise."""
    noise = np.random.default_rng(12).standard_normal(len(speech))
    slow = signal.butter(2, 30, fs=SAMPLE_RATE, output="sos")
    sound = np.zeros(len(speech))
    for centre in np.geomspace(200, 6500, 16):
        band = signal.butter(2, (centre * 0.89, centre * 1.12), "bandpass", fs=SAMPLE_RATE, output="sos")
        envelope = signal.sosfiltfilt(slow, np.abs(signal.sosfilt(band, speech)))
        sound += np.maximum(envelope, 0.0) * signal.sosfilt(band, noise) * (centre / 1000) ** 0.5
    return np.asarray(0.05 * sound / np.abs(sound).max())


def _loudspeaker(speech: Samples) -> Samples:
    """Through a small loudspeaker, and the echo of a room on its way."""
    small = signal.sosfilt(signal.butter(2, (250, 6000), "bandpass", fs=SAMPLE_RATE, output="sos"), speech)
    tail = np.random.default_rng(13).standard_normal(SAMPLE_RATE // 2) * np.exp(-np.linspace(0, 7, SAMPLE_RATE // 2))
    echo = signal.fftconvolve(small, tail / np.linalg.norm(tail))[: len(small)]
    return np.asarray(0.1 * (small + echo))


def _images(portrait: ImageArray) -> list[tuple[str, str, str, ImageArray]]:
    """Name, what it is, what is expected, and the image as BGR ``[h, w, 3]``."""
    room, rng = _room(), np.random.default_rng(7)
    dark = 0.06 * portrait + rng.normal(1.0, _GRAIN, portrait.shape)
    two = np.concatenate([_resized(portrait, WIDTH // 2), _resized(portrait, WIDTH // 2)[:, ::-1]], axis=1)
    tiny = room.copy()
    small = _resized(portrait, 48)  # the face is some 16 pixels wide
    tiny[200 : 200 + len(small), 300:348] = small
    return [
        ("dark_face", "a face in the dark", UNCERTAIN, np.clip(dark, 0, 255).astype(np.uint8)),
        ("upside_down_face", "a face upside down", UNCERTAIN, portrait[::-1, ::-1]),
        ("half_face", "a face half outside the frame", UNCERTAIN, portrait[:, WIDTH // 2 :]),
        ("blurred_face", "a face out of focus", UNCERTAIN, _blurred(portrait)),
        ("tiny_face", "a face 16 pixels wide", UNCERTAIN, tiny),
        ("two_faces", "two faces", ANY, two),
        ("cartoon", "a cartoon face", UNCERTAIN, _drawn_face()),
        ("smiley", "a smiley", UNCERTAIN, _smiley()),
        ("empty_room", "an empty room", NOTHING, room),
        ("text_page", "a page of text", NOTHING, _page()),
    ]


def _portrait(face: Path | None) -> ImageArray:
    """One person, BGR ``[480, 640, 3]``, the face in the middle."""
    if face is not None:
        return _centred(read_image(face), str(face))
    try:
        photograph = import_module("skimage.data").astronaut()
    except ImportError:
        return _drawn_face()
    return _centred(np.ascontiguousarray(photograph[:, :, ::-1]), "scikit-image's astronaut")


def _centred(image: ImageArray, name: str) -> ImageArray:
    # The cascade is everywhere the same; which other detector there is depends on the machine.
    faces = FaceDetector(HAAR).detect(image)
    if not faces:
        raise ValueError(f"{name}: no face is found in it; give a photograph of one person who looks at the camera")
    box = faces[0]
    scale = HEIGHT / (PORTRAIT * box.height)
    shift = (WIDTH / 2 - scale * (box.x + box.width / 2), HEIGHT / 2 - scale * (box.y + box.height / 2))
    matrix = np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])
    portrait: Any = cv2.warpAffine(
        image, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(portrait, np.uint8)


def _resized(image: ImageArray, width: int) -> ImageArray:
    size = (width, round(width * image.shape[0] / image.shape[1]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _blurred(image: ImageArray) -> ImageArray:
    """As a lens far out of focus does: eyes and mouth run into each other."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 16), np.uint8)


def _drawn_face() -> ImageArray:
    """A face as in a comic: skin, hair, eyes with pupils, brows, nose, a mouth that laughs."""
    image = np.full((HEIGHT, WIDTH, 3), (215, 190, 150), np.uint8)
    ellipse = partial(_ellipse, image)
    ink, skin, hair, white = (30, 25, 25), (160, 195, 240), (35, 60, 105), (250, 250, 250)
    ellipse((320, 215), (128, 140), (0, 360), hair)
    ellipse((320, 250), (105, 135), (0, 360), skin)
    ellipse((320, 138), (104, 48), (0, 360), hair)
    for x in (275, 365):
        ellipse((x, 225), (24, 15), (0, 360), white)
        ellipse((x, 226), (11, 11), (0, 360), (120, 80, 40))
        ellipse((x, 226), (5, 5), (0, 360), ink)
        ellipse((x, 225), (24, 15), (180, 360), ink, 3)
        ellipse((x, 203), (30, 12), (200, 340), ink, 6)
    cv2.polylines(image, [np.array([(318, 235), (308, 280), (328, 284)])], False, (110, 145, 195), 4, cv2.LINE_AA)
    ellipse((320, 308), (48, 38), (0, 180), (60, 50, 150))
    ellipse((320, 310), (40, 14), (0, 180), white)
    return image


def _smiley() -> ImageArray:
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    ellipse = partial(_ellipse, image)
    ellipse((320, 240), (170, 170), (0, 360), (40, 210, 250))
    ellipse((320, 240), (170, 170), (0, 360), (20, 20, 20), 6)
    for x in (260, 380):
        ellipse((x, 190), (18, 30), (0, 360), (20, 20, 20))
    ellipse((320, 250), (100, 85), (15, 165), (20, 20, 20), 10)
    return image


def _ellipse(
    image: ImageArray,
    centre: tuple[int, int],
    axes: tuple[int, int],
    arc: tuple[int, int],
    colour: tuple[int, int, int],
    thickness: int = -1,
) -> None:
    """Draw an ellipse, or the part of it from one angle to the other [degrees]; filled without a thickness."""
    cv2.ellipse(image, centre, axes, 0, *arc, colour, thickness, cv2.LINE_AA)


def _room() -> ImageArray:
    """Wall, floor, a window and a door, with light from the window and the camera's noise."""
    image = np.full((HEIGHT, WIDTH, 3), (175, 190, 195), np.uint8)
    image[330:] = (70, 105, 140)
    cv2.rectangle(image, (80, 70), (230, 220), (240, 235, 225), -1)
    cv2.rectangle(image, (80, 70), (230, 220), (250, 250, 250), 8)
    cv2.line(image, (155, 70), (155, 220), (250, 250, 250), 6)
    cv2.rectangle(image, (450, 90), (560, 340), (60, 85, 110), -1)
    cv2.circle(image, (465, 225), 6, (160, 200, 210), -1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    light = 0.55 + 0.5 * np.exp(-(((columns - 155) / 300) ** 2) - ((rows - 145) / 260) ** 2)
    grain = np.random.default_rng(8).normal(0.0, _GRAIN, image.shape)
    return np.asarray(np.clip(image * light[..., None] + grain, 0, 255), np.uint8)


def _page() -> ImageArray:
    image = np.full((HEIGHT, WIDTH, 3), 245, np.uint8)
    sentences = (DEMO / "sentences.txt").read_text(encoding="utf-8").splitlines()
    for number, sentence in enumerate(sentences[:19]):
        at = (30, 40 + 23 * number)
        cv2.putText(image, sentence, at, cv2.FONT_HERSHEY_COMPLEX_SMALL, 0.7, (25, 25, 25), 1, cv2.LINE_AA)
    return image


def main() -> int:
    """Command line; the exit status is 1 if something sure was said that should not be, or cannot be read."""
    parser = argparse.ArgumentParser(description="Make inputs that nothing can be recognised in, or judge the answers.")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder of the inputs")
    parser.add_argument("--face", metavar="FILE", type=Path, help="a photograph of one person (only without --judge)")
    parser.add_argument("--judge", metavar="FILE", type=Path, help="what synctva recognize DIR --json FILE wrote")
    arguments = parser.parse_args()
    try:
        if arguments.judge is None:
            print(f"{len(make_bad_input(arguments.out, arguments.face))} files in {arguments.out}")
            return 0
        verdicts = judge(arguments.out, arguments.judge)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"bad_input: {error}", file=sys.stderr)
        return 1
    _print(verdicts)
    return 0 if all(found.fine for found in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
