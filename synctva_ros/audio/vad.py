"""Is there a voice in a frame of sound? The detectors, and what keeps other people and machines out.

Silero (https://github.com/snakers4/silero-vad, MIT) is a small recurrent network that faster-whisper brings along;
webrtcvad is a model of two mixtures in six bands, which takes hardly any time, and many noises for a voice.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from synctva_ros.config import Turns
from synctva_ros.events import SAMPLE_RATE, FloatArray

#: webrtcvad takes 10, 20 or 30 ms; the shortest gives the finest end of speech.
FRAME = SAMPLE_RATE // 100
#: Hum, rumble and an offset are below, voices above [Hz].
HIGH_PASS = 100.0
#: Over so many frames the level is averaged before it is compared with the background.
SMOOTHED = 10
#: Levels of the last 5 s, one for every fifth frame: what is exceeded nearly always is the background.
HISTORY, EVERY, BACKGROUND = 100, 5, 10
#: So far [dB] the voice in front stands above the background.
ABOVE_BACKGROUND = 6.0
#: Speech starts and ends where its level comes so close to the background [dB]: noise is steadier than talk.
ABOVE_NOISE, ABOVE_TALK = 4.0, 12.0
#: What is within this of the background [dB] tells whether that is people who talk.
QUIETEST = 2.0
#: Speech that is so much weaker [dB] than what was in front is somebody else's, further away ...
BELOW_FRONT = 15.0
#: ... until the voice in front has been away for long: then whoever is left is in front [dB/s].
FRONT_FALL = 0.5


class VoiceDetector(Protocol):
    """Judges one frame after the other; what came before in the stream counts."""

    def __call__(self, frame: FloatArray) -> bool:
        """Whether there is a voice in 10 ms of sound ``[160]``, without hum and offset."""

    def reset(self) -> None:
        """Forget what came before: another stream begins."""


class WebrtcDetector:
    """webrtcvad.

    Args:
        config: how aggressive; it may be changed at any time.
    """

    def __init__(self, config: Turns) -> None:
        self._config = config
        self.reset()

    def reset(self) -> None:
        """See :class:`VoiceDetector`."""
        import webrtcvad

        self._vad = webrtcvad.Vad()

    def __call__(self, frame: FloatArray) -> bool:
        """See :class:`VoiceDetector`."""
        self._vad.set_mode(self._config.aggressiveness)
        pcm = np.clip(frame * 32768.0, -32768, 32767).astype(np.int16).tobytes()
        return bool(self._vad.is_speech(pcm, SAMPLE_RATE))


class SileroDetector:
    """Silero v6 on one thread, its state kept over the stream.

    It judges 32 ms at a time, so a frame is judged by the last whole piece.

    Args:
        config: from which probability on there is a voice; it may be changed at any time.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: faster-whisper is missing, or this version of it brings another network along.
    """

    _PIECE, _BEFORE = 512, 64
    #: A voice that is there goes on down to this much less than the threshold, as its authors do it.
    _HYSTERESIS = 0.15

    def __init__(self, config: Turns) -> None:
        self._config = config
        self._session = _silero()
        self.reset()

    def reset(self) -> None:
        """See :class:`VoiceDetector`."""
        self._state = [np.zeros((1, 1, 128), np.float32)] * 2
        self._heard = np.zeros(self._BEFORE, np.float32)
        self._is_voice = False

    def __call__(self, frame: FloatArray) -> bool:
        """See :class:`VoiceDetector`."""
        self._heard = np.concatenate([self._heard, frame])
        if len(self._heard) >= self._BEFORE + self._PIECE:
            piece, self._heard = self._heard[: self._BEFORE + self._PIECE], self._heard[self._PIECE :]
            output, *self._state = self._session.run(
                None, {"input": piece[None], "h": self._state[0], "c": self._state[1]}
            )
            needed = self._config.threshold - self._HYSTERESIS * self._is_voice
            self._is_voice = bool(output.item() >= needed)
        return self._is_voice


@cache
def _silero() -> Any:
    """The network, once a process: it keeps nothing of a stream."""
    import onnxruntime

    # Only its file is wanted; importing it would take a second and 100 MB.
    found = importlib.util.find_spec("faster_whisper")
    where = Path(found.origin).parent if found is not None and found.origin else Path("faster_whisper")
    path = where / "assets" / "silero_vad_v6.onnx"
    if not path.is_file():
        raise ValueError(f"{path} is missing: install faster-whisper 1.2.1, or set utterance.detector to webrtc")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


DETECTORS: dict[str, Callable[[Turns], VoiceDetector]] = {"silero": SileroDetector, "webrtc": WebrtcDetector}


class HighPass:
    """Takes out hum, rumble and offset; its state is kept over the stream."""

    def __init__(self) -> None:
        from scipy.signal import butter

        self._sections = butter(4, HIGH_PASS, "highpass", fs=SAMPLE_RATE, output="sos")
        self._state: FloatArray | None = None

    def __call__(self, samples: FloatArray) -> FloatArray:
        """Filter the next samples ``[n]``."""
        from scipy.signal import sosfilt, sosfilt_zi

        if not len(samples):
            return samples
        if self._state is None:  # as if the first sample had been there before: an offset is no click
            self._state = sosfilt_zi(self._sections) * samples[0]
        filtered, self._state = sosfilt(self._sections, samples, zi=self._state)
        return np.asarray(filtered, np.float32)


class Foreground:
    """Follows the level of the voice in front and of what goes on behind it.

    Attributes:
        background: level [dB] that is exceeded nearly always; full scale is 0.
    """

    def __init__(self) -> None:
        self.background = self._edge = -np.inf
        self._recent: deque[float] = deque(maxlen=SMOOTHED)
        self._history: deque[tuple[float, bool]] = deque(maxlen=HISTORY)
        self._count = 0
        self._lowest = -np.inf  # level that a voice must have where others talk in the background [dB]
        self._front = -np.inf  # of the loudest voice [dB]

    def __call__(self, power: float, is_voice: bool) -> bool:
        """Whether a frame of this power (full scale 1) is as loud as somebody in front is.

        Args:
            power: mean square of the frame.
            is_voice: whether the detector hears a voice, of whomever.
        """
        self._recent.append(power)
        level = 10.0 * float(np.log10(max(sum(self._recent) / len(self._recent), 1e-12)))
        if self._count % EVERY == 0:
            self._history.append((level, is_voice))
            levels, voices = (np.array(each) for each in zip(*self._history, strict=True))
            self.background = float(np.percentile(levels, BACKGROUND))
            # Noise is nobody: over it the detector hears a voice that is as loud. Voices behind are told by level only.
            talks = voices[levels <= self.background + QUIETEST].mean() > 0.5 and len(levels) >= HISTORY // 5
            self._lowest = self.background + ABOVE_BACKGROUND if talks else -np.inf
            self._edge = self.background + (ABOVE_TALK if talks else ABOVE_NOISE)
        self._count += 1
        self._front -= FRONT_FALL * FRAME / SAMPLE_RATE
        is_loud = level >= max(self._lowest, self._front - BELOW_FRONT)
        if is_voice and is_loud:
            self._front = max(self._front, level)
        return is_loud

    def edge(self, pause: FloatArray) -> float:
        """Level [dB] that speech in front has where it starts and ends.

        Args:
            pause: levels of the frames since the last voice [dB].
        """
        quiet = float(np.percentile(pause, 20)) if len(pause) else np.inf
        # Who begins to listen in mid-speech, or to people without pauses, has heard the background in this pause only.
        return min(self._edge, quiet + ABOVE_NOISE) if quiet < self.background else self._edge
