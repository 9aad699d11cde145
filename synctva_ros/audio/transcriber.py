"""Utterance → words, by the recogniser that is asked for or at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synctva_ros.audio import moonshine
from synctva_ros.audio.recogniser import Recogniser
from synctva_ros.audio.whisper import MODEL_FILES, Whisper, WhisperError, is_here, whisper_threads
from synctva_ros.config import Words
from synctva_ros.events import FloatArray, Transcript, TranscriptStatus, Utterance
from synctva_ros.plural import counted
from synctva_ros.weights import WeightsError
from synctva_ros.weights import packaged_whisper as packaged

#: Nobody says less than so many words a second for longer than this [s]; recognisers write "You" of a noise.
FEW, FEW_AFTER = 0.4, 2.0


class Transcriber:
    """A loaded recogniser, or none: then every transcript says ``NO_MODEL``.

    What ``model`` names is looked for first; of a Whisper that is not on this machine a recogniser for English that a
    package carries takes the place.

    Args:
        config: what to load and how to judge.
        log: called with one sentence about what was loaded and where it runs.
        warn: called with one sentence when there will be no words, or the device is not the one asked for.

    Raises:
        ValueError: the model does not know the language, or no device here the compute type.

    """

    def __init__(self, config: Words, log: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self.config = config
        self._log, self._warn = log, warn
        self._recogniser: Recogniser | None = None
        if not config.model:
            log("no recogniser is set: utterances will have no words")
        elif config.model == moonshine.NAME:
            self._load_moonshine()
        else:
            self._load_whisper(config.model)

    @property
    def model_id(self) -> str:
        """Name of the recogniser; empty without one."""
        return self._recogniser.model_id if self._recogniser else ""

    @property
    def device(self) -> str:
        """Where it runs; empty without one."""
        return self._recogniser.device if self._recogniser else ""

    def _load_moonshine(self) -> None:
        if self.config.language not in ("", moonshine.LANGUAGE):
            raise ValueError(
                f"{moonshine.NAME} does not know the language {self.config.language!r}; leave it empty or take "
                f"{moonshine.LANGUAGE}"
            )
        try:
            self._open_moonshine(moonshine.packaged_moonshine())
        except WeightsError as error:
            self._warn(f"utterances will have no words: {error}")

    def _open_moonshine(self, folder: Path) -> None:
        threads = whisper_threads(self.config.threads)
        self._recogniser = moonshine.Moonshine(folder, threads)
        self._log(f"{moonshine.NAME} runs on {self.device}, {counted(threads, 'thread')}")

    def _load_whisper(self, name: str) -> None:
        from faster_whisper import available_models

        if (folder := Path(name).expanduser()).is_dir():
            missing = [part for part in MODEL_FILES if not (folder / part).is_file()]
            if missing:
                # Without a tokenizer faster-whisper would ask the network for one.
                self._warn(
                    f"utterances will have no words: the folder {name!r} is no faster-whisper model; "
                    f"it lacks {', '.join(missing)}"
                )
            elif problem := self._open_whisper(str(folder), folder.name):
                self._warn(
                    f"utterances will have no words: Whisper {name!r} could not be loaded; give a folder that holds a "
                    f"faster-whisper model ({', '.join(MODEL_FILES)}) ({problem})"
                )
            return
        if name not in available_models() and (name[0] in "/.~" or "/" not in name):
            known = ", ".join(available_models())
            self._warn(
                f"utterances will have no words: there is no folder {name!r}, nor is it a model's name on a hub "
                f"(OWNER/NAME) or one of: {moonshine.NAME}, {known}"
            )
            return
        problem = self._open_whisper(name, name)
        if not problem:
            return
        remedy = (
            "check the network, or set model to a folder"
            if self.config.download
            else "set the parameter download to true once while there is a network, or set model to a folder"
        )
        if self.config.language in ("", moonshine.LANGUAGE) and not is_here(name):
            problem, instead = self._open_packaged(name, problem)
            remedy += instead
        if problem:
            self._warn(f"utterances will have no words: Whisper {name!r} could not be loaded; {remedy} ({problem})")

    def _open_packaged(self, name: str, problem: str) -> tuple[str, str]:
        """Take what a package carries in place of a Whisper that is not here.

        Returns:
            What hinders it, empty if nothing does; and what can be done about it.
        """
        remedies = []
        try:
            folder = packaged.packaged_whisper()
        except WeightsError as error:
            remedies.append(str(error))
        else:
            if name != packaged.NAME:
                self._log(
                    f"Whisper {name!r} is not on this machine: {packaged.NAME!r} of {packaged.PACKAGE} takes its place"
                )
            return self._open_whisper(str(folder), packaged.NAME), ""
        try:
            folder = moonshine.packaged_moonshine()
            self._log(f"Whisper {name!r} is not on this machine: {moonshine.NAME!r} takes its place")
            self._open_moonshine(folder)
        except WeightsError as error:
            return problem, f"; or else {'; or '.join([*remedies, str(error)])}"
        return "", ""

    def _open_whisper(self, path: str, name: str) -> str:
        """Load a Whisper from a folder, or by its name on a hub; what hinders it, empty if nothing does."""
        try:
            self._recogniser = Whisper(path, name, self.config, self._log, self._warn)
        except WhisperError as error:
            return str(error)
        return ""

    def transcribe(self, utterance: Utterance) -> Transcript:
        """Recognise one utterance; what the recogniser raises is not caught.

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
        config = self.config
        if self._recogniser is None:
            return TranscriptStatus.NO_MODEL, "", {}
        samples: FloatArray = utterance.samples
        if utterance.rms < config.min_rms or not len(samples):
            return TranscriptStatus.SILENCE, "", {}
        heard = self._recogniser.hear(samples, config.language, config.beam_size)
        details = {
            "language": heard.language,
            "language_probability": heard.language_probability,
            "average_logprob": heard.average_logprob,
            "no_speech_probability": heard.no_speech_probability,
        }
        if not any(map(str.isalnum, heard.text)) or heard.no_speech_probability > config.no_speech_threshold:
            return TranscriptStatus.SILENCE, "", details
        threshold = config.logprob_threshold or self._recogniser.doubtful
        seconds = len(samples) / utterance.sample_rate
        few = seconds > FEW_AFTER and len(heard.text.split()) < FEW * seconds
        if few or heard.repeats or not heard.average_logprob >= threshold:  # NaN too
            return TranscriptStatus.UNRELIABLE, "", details
        return TranscriptStatus.OK, heard.text, details
