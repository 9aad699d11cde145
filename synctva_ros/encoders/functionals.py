"""Acoustic functionals: what the prosody of an utterance is like, in one vector."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, signal

from synctva_ros.events import SAMPLE_RATE, FloatArray

_HOP = 160
_WINDOW = 400
_FFT = 512
_PITCH_WINDOW = 640
_PITCH_FFT = 1024
_MIN_LAG = SAMPLE_RATE // 500
_MAX_LAG = SAMPLE_RATE // 60
_BANDS = 40
_CEPSTRA = 16
# Below the loudest frames by this much (dB), a frame is a pause and is left out of the spectral statistics.
_ACTIVE_RANGE = 35.0
# What lies further below the loudest band than this (dB) is noise of the recording.
_FLOOR_RANGE = 70.0
# First bin of the spectrum that the window keeps clear of an offset: 94 Hz.
_SPEECH_BIN = 3
_LIMIT = 10.0


class AcousticFunctionals:
    """Statistics of a short-time analysis over the utterance, in the spirit of eGeMAPS (Eyben et al. 2016).

    Log-mel spectrum, cepstra, spectral shape, fundamental frequency, voice quality, energy and rhythm. Gain does not
    matter: level is taken relative to the utterance's own. Values are scaled to lie in about [-10, 10].
    """

    def __init__(self) -> None:
        """Prepare the filter bank."""
        self._mel = _mel_filters()
        self._window = signal.get_window("hann", _WINDOW).astype(np.float32)
        self._low_pass = signal.butter(4, 1500, fs=SAMPLE_RATE, output="sos").astype(np.float32)
        self._frequencies = fft.rfftfreq(_FFT, 1 / SAMPLE_RATE).astype(np.float32)
        rng = np.random.default_rng(0)
        self.width: int = len(self.of(rng.standard_normal(SAMPLE_RATE).astype(np.float32)))

    def of(self, sound: FloatArray) -> FloatArray:
        """Vector ``[width]`` of sound ``[n]`` at 16 kHz that is neither silent nor offset."""
        if len(sound) < _PITCH_WINDOW:
            sound = np.pad(sound, (0, _PITCH_WINDOW - len(sound)))
        count = 1 + (len(sound) - _PITCH_WINDOW) // _HOP
        pitch_frames = np.lib.stride_tricks.sliding_window_view(sound, _PITCH_WINDOW)[::_HOP]
        # The spectral window sits in the middle of the longer one that pitch needs.
        offset = (_PITCH_WINDOW - _WINDOW) // 2
        frames = pitch_frames[:, offset : offset + _WINDOW]
        power = np.square(np.abs(fft.rfft(frames * self._window, _FFT, axis=1)))
        # Rumble, hum and what is left of an offset say nothing about pauses.
        energy = _decibel(power[:, _SPEECH_BIN:].sum(1))
        energy -= np.percentile(energy, 95)
        active = energy > -_ACTIVE_RANGE
        first, last = int(active.argmax()), count - int(active[::-1].argmax())
        power, energy, active = power[first:last], energy[first:last], active[first:last]
        low = signal.sosfilt(self._low_pass, sound).astype(np.float32)
        lag, periodicity = _pitch(np.lib.stride_tricks.sliding_window_view(low, _PITCH_WINDOW)[::_HOP][first:last])
        seconds = len(energy) * _HOP / SAMPLE_RATE

        mel = _decibel(power @ self._mel.T)
        mel = np.maximum(mel, mel.max() - _FLOOR_RANGE)
        vector = [
            *self._mel_functionals(mel, active),
            *self._shape_functionals(power, active),
            *_pitch_functionals(lag, periodicity, energy, active, seconds),
            *_energy_functionals(energy, active, seconds),
        ]
        result: FloatArray = np.clip(np.array(vector, np.float32), -_LIMIT, _LIMIT)
        return result

    def _mel_functionals(self, mel: FloatArray, active: NDArray[np.bool_]) -> list[float]:
        voiced_mean = mel[active].mean(0)
        shape = (voiced_mean - voiced_mean.mean()) / 10
        cepstra = fft.dct(mel / 10, axis=1, norm="ortho")[:, :_CEPSTRA]
        change = _delta(cepstra)
        kept = cepstra[active]
        low, median, high = np.percentile(kept[:, 1:], [10, 50, 90], axis=0)
        return [
            *shape,
            *mel[active].std(0) / 5,
            *kept.std(0) / 2,
            *change[active].std(0),
            *(high - low)[:12] / 3,
            *(high + low - 2 * median)[:12] / 2,
        ]

    def _shape_functionals(self, power: FloatArray, active: NDArray[np.bool_]) -> list[float]:
        power = power[active] + 1e-12
        f = self._frequencies
        total = power.sum(1)
        centroid = power @ f / total
        spread = np.sqrt(np.maximum(power @ np.square(f) / total - centroid**2, 1.0))
        rolloff = f[(np.cumsum(power, axis=1) >= 0.85 * total[:, None]).argmax(1)]
        flatness = np.log(power).mean(1) - np.log(power.mean(1))
        share = np.sqrt(power / total[:, None])
        flux = np.sqrt(np.square(np.diff(share, axis=0, prepend=share[:1])).sum(1))

        def band(low: float, high: float) -> FloatArray:
            return np.asarray(power[:, (f >= low) & (f < high)], np.float32)

        alpha = _decibel(band(50, 1000).sum(1)) - _decibel(band(1000, 5000).sum(1))
        hammarberg = _decibel(band(0, 2000).max(1)) - _decibel(band(2000, 5000).max(1))
        high = _decibel(band(4000, 8000).sum(1)) - _decibel(total)
        contours = [
            np.log2(centroid + 50) - 10,
            np.log2(spread + 50) - 10,
            np.log2(rolloff + 50) - 10,
            flatness / 3,
            flux * 3,
            alpha / 10,
            hammarberg / 10,
            high / 10,
        ]
        return [value for contour in contours for value in _statistics(contour)]


def _pitch(frames: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Period in samples and normalised autocorrelation at it, per frame."""
    windows = frames.shape[1]
    spectrum = fft.rfft(frames, _PITCH_FFT, axis=1)
    correlation = fft.irfft(np.square(spectrum.real) + np.square(spectrum.imag), _PITCH_FFT, axis=1)[:, : _MAX_LAG + 2]
    # The energies of the two overlapping parts make the correlation independent of the lag's length.
    running = np.cumsum(np.square(frames, dtype=np.float32), axis=1)
    lags = np.arange(_MAX_LAG + 2)
    head = running[:, windows - 1 - lags]
    tail = running[:, -1:] - np.where(lags > 0, running[:, lags - 1], 0)
    correlation = correlation / np.sqrt(np.maximum(head * tail, 1e-6))
    inner = correlation[:, _MIN_LAG : _MAX_LAG + 1]
    before, after = correlation[:, _MIN_LAG - 1 : _MAX_LAG], correlation[:, _MIN_LAG + 1 : _MAX_LAG + 2]
    peaks = np.where((inner >= before) & (inner > after), inner, -1.0)
    # The first peak nearly as high as the best one is the period; later ones are its multiples.
    chosen = (peaks >= 0.88 * peaks.max(1, keepdims=True)).argmax(1)
    row = np.arange(len(frames))
    a, b, c = before[row, chosen], inner[row, chosen], after[row, chosen]
    bend = a - 2 * b + c
    shift = np.where(bend < -1e-6, 0.5 * (a - c) / np.where(bend < -1e-6, bend, 1), 0)
    lag = (chosen + _MIN_LAG + np.clip(shift, -0.5, 0.5)).astype(np.float32)
    return lag, np.clip(peaks[row, chosen], 0, 0.9999).astype(np.float32)


def _pitch_functionals(
    lag: FloatArray, periodicity: FloatArray, energy: FloatArray, active: NDArray[np.bool_], seconds: float
) -> list[float]:
    voiced = ndimage.median_filter(((periodicity > 0.5) & active).astype(np.uint8), 3).astype(bool)
    runs, number = ndimage.label(voiced)
    fraction = float(voiced[active].mean())
    harmonicity = 10 * np.log10(periodicity / (1 - periodicity) + 1e-3) / 10
    rhythm = [fraction * 2, math.log1p(number / seconds), math.log2(1 + voiced.sum() / max(number, 1)) / 2]
    if voiced.sum() < 3:
        return [*rhythm, *([0.0] * 23)]
    # Semitones over 27.5 Hz; a median of five frames removes single octave errors.
    semitones = 12 * np.log2(SAMPLE_RATE / lag / 27.5)
    pitch, level = semitones[voiced], energy[voiced]
    smooth = ndimage.median_filter(pitch, min(5, len(pitch)))
    same_run = np.diff(runs[voiced]) == 0
    step = np.diff(smooth)[same_run] if same_run.any() else np.zeros(1)
    jitter = np.abs(np.diff(lag[voiced]) / lag[voiced][1:])[same_run] if same_run.any() else np.zeros(1)
    shimmer = np.abs(np.diff(level))[same_run] if same_run.any() else np.zeros(1)
    place = np.flatnonzero(voiced) / len(voiced) - 0.5
    slope = np.polyfit(place, smooth, 1)[0] if np.ptp(place) > 0 else 0.0
    together = float(np.mean((smooth - smooth.mean()) * (level - level.mean())))
    low, quarter, median, three, high = np.percentile(smooth, [5, 25, 50, 75, 95])
    return [
        *rhythm,
        median / 12,
        smooth.mean() / 12,
        low / 12,
        high / 12,
        smooth.std() / 4,
        (three - quarter) / 4,
        (high - low) / 8,
        slope / 8,
        math.log1p(np.abs(step).mean() * 5),
        math.log1p(step.std() * 5),
        (step > 0.1).mean() * 2,
        (step < -0.1).mean() * 2,
        math.log(np.median(jitter) + 1e-3) + 4,
        math.log(jitter.mean() + 1e-3) + 4,
        math.log(np.median(shimmer) + 1e-2),
        math.log(shimmer.mean() + 1e-2),
        *_statistics(harmonicity[voiced]),
        smooth[: max(len(smooth) // 4, 1)].mean() / 12 - median / 12,
        smooth[-max(len(smooth) // 4, 1) :].mean() / 12 - median / 12,
        together / max(float(smooth.std() * level.std()), 1e-3),
    ]


def _energy_functionals(energy: FloatArray, active: NDArray[np.bool_], seconds: float) -> list[float]:
    contour = np.maximum(energy, -60)
    smooth = ndimage.gaussian_filter1d(contour, 3)
    peaks, found = signal.find_peaks(smooth, height=-25, prominence=3)
    height = found["prominences"].mean() if len(peaks) else 0.0
    place = np.linspace(-0.5, 0.5, len(contour))
    slope = np.polyfit(place, contour, 1)[0] if len(contour) > 1 else 0.0
    pauses, number = ndimage.label(~active)
    longest = np.bincount(pauses.ravel())[1:].max() if number else 0
    change = np.diff(smooth, prepend=smooth[:1])
    low, quarter, median, three, high = np.percentile(contour, [10, 25, 50, 75, 90])
    return [
        contour.mean() / 10,
        contour.std() / 5,
        low / 20,
        quarter / 15,
        median / 10,
        three / 5,
        high / 5,
        slope / 10,
        np.abs(change).mean() * 2,
        change.std() * 2,
        change.max() / 2,
        change.min() / 2,
        math.log1p(len(peaks) / seconds),
        height / 10,
        (1 - active.mean()) * 3,
        math.log1p(longest * _HOP / SAMPLE_RATE * 10),
        math.log1p(number / seconds),
        math.log(seconds),
    ]


def _statistics(contour: FloatArray) -> list[float]:
    low, high = np.percentile(contour, [10, 90])
    return [float(contour.mean()), float(contour.std()), float(low), float(high)]


def _decibel(power: FloatArray) -> FloatArray:
    return np.asarray(10 * np.log10(np.maximum(power, 1e-10)), np.float32)


def _delta(contours: FloatArray) -> FloatArray:
    """Slope over five frames, as in HTK."""
    if len(contours) < 5:
        return np.zeros_like(contours)
    return np.asarray(signal.savgol_filter(contours, 5, 1, deriv=1, axis=0), np.float32)


def _mel_filters() -> FloatArray:
    """Triangular filters ``[bands, bins]`` of equal width on the mel scale, 50 to 7600 Hz."""

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(to_mel(50), to_mel(7600), _BANDS + 2) / 2595) - 1)
    bins = fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.asarray(np.maximum(0, np.minimum(rise, fall)), np.float32)
