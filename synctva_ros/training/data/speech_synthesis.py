"""Speech made by eSpeak NG: data for the demo recogniser, its tests and the demo dialogue.

A voice is an accent and a variant of eSpeak NG, written ``accent+variant`` (``en-us+m3``). Training and held-out
voices share no variant, and two accents are held out as a whole, so that a figure on held-out voices is one
on voices never heard.
"""

from __future__ import annotations

import ctypes
import io
import shutil
import subprocess
import wave
from functools import cache
from typing import Any

import numpy as np
import soxr

from synctva_ros.events import FloatArray

SAMPLE_RATE = 16_000

#: Words per minute and pitch (0 to 99) that training draws from; 175 and 50 are the defaults of eSpeak NG.
SPEEDS = (130, 200)
PITCHES = (25, 75)
DEFAULT_SPEED = 160
DEFAULT_PITCH = 50

TRAINING_ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
TRAINING_VARIANTS = (
    *("f1", "f3", "f4", "f5", "Alicia", "Annie", "aunty", "steph", "steph2", "anika", "grandma"),
    *("m1", "m2", "m4", "m5", "m6", "m8", "adam", "Alex", "Andy", "benjamin", "caleb", "david", "ed", "Denis"),
    *("edward", "Gene", "Henrique", "Hugo", "iven3", "Jacky", "john", "Lee", "Marco", "max", "Mike", "paul"),
    *("pedro", "quincy", "rob", "victor", "zac", "klatt2", "klatt4"),
)
TRAINING_VOICES = tuple(f"{accent}+{variant}" for accent in TRAINING_ACCENTS for variant in TRAINING_VARIANTS)

HELD_OUT_FEMALE_VOICES = ("en-us+f2", "en-gb+linda", "en-us-nyc+Andrea", "en-gb-x-rp+belinda")
HELD_OUT_MALE_VOICES = ("en-us+m3", "en-gb+Michael", "en-us-nyc+robert", "en-gb-x-rp+travis")
HELD_OUT_VOICES = HELD_OUT_FEMALE_VOICES + HELD_OUT_MALE_VOICES

#: Voices of other languages, which read English words into sound that is speech but not the speech asked for.
FOREIGN_VOICES = ("de", "fr-fr", "es", "it", "nl", "pl", "sv", "pt-br", "tr", "cs", "ru", "hi", "id", "ro", "fi")


# Of espeak-ng/speak_lib.h.
_SYNCHRONOUS, _PHONEME_EVENTS, _RATE, _PITCH, _BY_CHARACTER, _UTF8, _PHONEME = 2, 1, 1, 3, 1, 1, 7


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int) for name in ("type", "unique", "text_position", "length", "milliseconds", "sample")),
        ("user_data", ctypes.c_void_p),
        ("identity", _Identity),
    )


class _Voice(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("name", "languages", "identifier")),
        *((name, ctypes.c_ubyte) for name in ("gender", "age", "variant", "reserved")),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class SynthesisError(RuntimeError):
    """eSpeak NG is absent or refused its input."""


@cache
def espeak_path() -> str:
    """The path of the ``espeak-ng`` program.

    Raises:
        SynthesisError: It is not installed.
    """
    path = shutil.which("espeak-ng")
    if path is None:
        raise SynthesisError(
            "espeak-ng is not on the PATH; install the package of that name, e.g. `sudo apt-get install espeak-ng`"
        )
    return path


def synthesise(text: str, voice: str, speed: int = DEFAULT_SPEED, pitch: int = DEFAULT_PITCH) -> FloatArray:
    """Reads a text aloud.

    Args:
        text: What to say.
        voice: ``accent+variant`` of eSpeak NG.
        speed: Words per minute.
        pitch: 0 to 99.

    Returns:
        Mono sound at 16 kHz, ``[samples]`` in [-1, 1].

    Raises:
        SynthesisError: eSpeak NG is absent, or failed, or made no sound.
    """
    command = [espeak_path(), "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdin", "--stdout"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout:
        reason = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise SynthesisError(f"espeak-ng made no sound of {text!r} with voice {voice!r}: {reason}")
    with wave.open(io.BytesIO(done.stdout)) as sound:
        rate = sound.getframerate()
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
    return np.asarray(soxr.resample(samples.astype(np.float32) / 32768.0, rate, SAMPLE_RATE), dtype=np.float32)


class _Library:
    """libespeak-ng, which the program is made of: it alone says when each phoneme begins."""

    def __init__(self) -> None:
        try:
            self._library: Any = ctypes.CDLL("libespeak-ng.so.1")
        except OSError as error:
            raise SynthesisError(
                f"libespeak-ng.so.1 cannot be loaded ({error}); it comes with the package espeak-ng"
            ) from None
        self._rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS)
        if self._rate <= 0:
            raise SynthesisError("libespeak-ng finds no data; reinstall the package espeak-ng-data")
        self._found: list[tuple[str, float]] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = callback(self._collect)  # must outlive the library's use of it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, _samples: Any, _count: int, events: Any) -> int:
        index = 0
        while events[index].type != 0:
            if events[index].type == _PHONEME:
                name = events[index].identity.string.decode(errors="replace")
                self._found.append((name, events[index].sample / self._rate))
            index += 1
        return 0

    def phonemes(self, text: str, voice: str, speed: int, pitch: int) -> tuple[tuple[str, float], ...]:
        self._found.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            by_language = _Voice(languages=voice.encode())
            if self._library.espeak_SetVoiceByProperties(ctypes.byref(by_language)) != 0:
                raise SynthesisError(f"libespeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(_RATE, speed, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        data = text.encode() + b"\0"
        if self._library.espeak_Synth(data, len(data), 0, _BY_CHARACTER, 0, _UTF8, None, None) != 0:
            raise SynthesisError(f"libespeak-ng made no sound of {text!r} with voice {voice!r}")
        return tuple(self._found)


@cache
def _library() -> _Library:
    return _Library()


def phoneme_times(text: str, voice: str, speed: int, pitch: int) -> tuple[tuple[str, float], ...]:
    """When each phoneme begins in the sound that :func:`synthesise` makes of the same arguments.

    Returns:
        Names of eSpeak NG's phonemes, pauses beginning with ``_``, and seconds.

    Raises:
        SynthesisError: The library of eSpeak NG is absent or failed.
    """
    return _library().phonemes(text, voice, speed, pitch)


def speech_bounds(samples: FloatArray) -> tuple[int, int]:
    """Where speech begins and ends in clean sound.

    Args:
        samples: ``[samples]`` at 16 kHz.

    Returns:
        First sample and last sample + 1 of the 10 ms frames whose RMS is above -40 dB of the loudest frame's.

    Raises:
        ValueError: The sound is silent or shorter than a frame.
    """
    frame = SAMPLE_RATE // 100
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    rms = np.sqrt(np.mean(frames**2, axis=1)) if len(frames) else np.zeros(1)
    if not rms.max() > 0:
        raise ValueError(f"no speech to find in {len(samples)} samples")
    loud = np.flatnonzero(rms > rms.max() * 10 ** (-40 / 20))
    return int(loud[0]) * frame, (int(loud[-1]) + 1) * frame
