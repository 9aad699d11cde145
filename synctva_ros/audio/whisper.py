"""Whisper (https://arxiv.org/abs/2212.04356) through faster-whisper, which runs it on CTranslate2."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from synctva_ros.audio.recogniser import MAX_COMPRESSION_RATIO, Heard, is_loop
from synctva_ros.config import Words
from synctva_ros.events import FloatArray
from synctva_ros.plural import counted

#: Compute types per device, the best first: what the device supports of them is taken.
COMPUTE_TYPES = {
    "cuda": ("float16", "int8_float16", "bfloat16", "float32"),
    "cpu": ("int8", "int8_float32", "float32"),
}
ALL_COMPUTE_TYPES = frozenset(kind for kinds in COMPUTE_TYPES.values() for kind in kinds)
#: What a folder must hold to be loaded without asking the network.
MODEL_FILES = ("model.bin", "config.json", "tokenizer.json")


def whisper_threads(wanted: int) -> int:
    """CPU threads for Whisper: those wanted, or for 0 what the machine can spare.

    That is half of the cores that this process may use, since the encoders work at the same time and threads without a
    core of their own only wait for each other; and at most 4, from where on a short utterance gains little.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or max(1, min(4, cores // 2))


def is_here(name: str) -> bool:
    """Whether the cache of the hub has a model."""
    from faster_whisper import download_model

    try:
        download_model(name, local_files_only=True)
    except (OSError, ValueError):  # the hub's errors are the former, but for names that it does not like
        return False
    return True


def choose_compute(device: str, compute_type: str) -> list[tuple[str, str]]:
    """What to try, in order: (device, compute type) that CTranslate2 says it supports here.

    ``auto`` prefers CUDA. A device that is asked for but not there is not in the list; the CPU is, last, if it supports
    the compute type.

    Raises:
        ValueError: no device that is here supports the compute type.
    """
    import ctranslate2

    devices = [] if device == "cpu" or ctranslate2.get_cuda_device_count() == 0 else ["cuda"]
    found: list[tuple[str, str]] = []
    refused: list[str] = []
    for name in [*devices, "cpu"]:
        supported = ctranslate2.get_supported_compute_types(name)
        preferred = (compute_type,) if compute_type != "auto" else COMPUTE_TYPES[name]
        kinds = [kind for kind in preferred if kind in supported]
        found += [(name, kind) for kind in kinds[:1]]
        if not kinds:
            refused.append(f"{name} supports {', '.join(sorted(supported & ALL_COMPUTE_TYPES))}")
    if not found:
        raise ValueError(
            f"parameter 'compute_type': {compute_type!r} is not supported here ({'; '.join(refused)}): take one of "
            "these, or auto"
        )
    return found


class WhisperError(Exception):
    """No device can load a model."""


class Whisper:
    """A loaded Whisper.

    Args:
        path: a folder, or a name that the hub knows.
        name: what it is called.
        config: where it runs and how.
        log: called with one sentence about where it runs.
        warn: called with one sentence when that is not the device that was asked for.

    Raises:
        WhisperError: no device can load it; the message says why.
        ValueError: it does not know the language, or no device here the compute type.
    """

    doubtful: ClassVar[float] = -0.7

    def __init__(
        self, path: str, name: str, config: Words, log: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        from faster_whisper import WhisperModel

        threads = whisper_threads(config.threads)
        problems: list[str] = []
        for device, compute_type in choose_compute(config.device, config.compute_type):
            try:
                self._model: Any = WhisperModel(
                    path,
                    device=device,
                    compute_type=compute_type,
                    cpu_threads=threads,
                    local_files_only=path != name or not config.download,
                )
                list(self._model.transcribe(np.zeros(16_000, np.float32), language="en", without_timestamps=True)[0])
            except Exception as error:  # faster-whisper, CTranslate2 and the hub each have their own
                reason = str(error).strip() or type(error).__name__
                problems.append(f"{device}: {reason.splitlines()[0].partition('. ')[0]}")
                continue
            break
        else:
            raise WhisperError("; ".join(problems))
        languages = self._model.supported_languages
        if config.language and config.language not in languages:
            raise ValueError(
                f"Whisper {name!r} does not know the language {config.language!r}; "
                f"leave it empty or take one of: {', '.join(languages)}"
            )
        self.model_id = name
        self.device = f"{device}, {compute_type}"
        kind = "multilingual" if self._model.model.is_multilingual else "one language"
        log(f"Whisper {name!r} ({kind}) runs on {self.device}, {counted(threads, 'thread')}")
        if problems or (config.device == "cuda" and device != "cuda"):
            warn(f"Whisper runs on {device}: " + ("; ".join(problems) or "CTranslate2 finds no CUDA device"))

    def hear(self, samples: FloatArray, language: str, beam_size: int) -> Heard:
        """Recognise; what faster-whisper raises is not caught."""
        segments, info = self._model.transcribe(
            samples,
            language=language or None,
            beam_size=beam_size,
            temperature=0.0,  # one pass: a fallback to sampling would take as long again, and is random
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,  # the transcriber judges, with all the numbers at hand
            log_prob_threshold=None,
        )
        found = list(segments)
        text = " ".join(segment.text.strip() for segment in found).strip()
        tokens = np.array([max(len(segment.tokens), 1) for segment in found], np.float64)
        return Heard(
            text,
            float(np.average([each.avg_logprob for each in found], weights=tokens)) if found else float("nan"),
            is_loop(text) or any(each.compression_ratio > MAX_COMPRESSION_RATIO for each in found),
            max((float(each.no_speech_prob) for each in found), default=float("nan")),
            info.language,
            float(info.language_probability),
        )
