"""Encoders by name: ours, those that other packages bring as entry points, and classes in a file of one's own."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_origin, get_type_hints

from synctva_ros.encoders.protocol import AudioEncoder, FaceEncoder, SpeakerEncoder, TextEncoder
from synctva_ros.events import MODALITIES

#: Group of the entry points in which other packages name their encoders' classes.
GROUP = "synctva_ros.encoders"
_PROTOCOLS: dict[str, type] = dict(zip(MODALITIES, (TextEncoder, AudioEncoder, FaceEncoder), strict=True))
#: Whose voice it is: another vector of the same sound.
_PROTOCOLS["speaker"] = SpeakerEncoder
_OURS = {
    "sentence": "synctva_ros.encoders.text:TextEncoder",
    "voice": "synctva_ros.encoders.audio:AudioEncoder",
    "voice-states": "synctva_ros.encoders.voice_states:VoiceStatesEncoder",
    "expression": "synctva_ros.encoders.face:FaceEncoder",
    "voiceprint": "synctva_ros.encoders.voiceprint:VoiceprintEncoder",
    "campplus": "synctva_ros.encoders.campplus:CampPlusEncoder",
}


class _UnusableError(Exception):
    """An encoder cannot be used; the message says which and why."""


def create_encoder(modality: str, name: str, weights: str = "") -> Any:
    """Make an encoder.

    Args:
        modality: one of ``MODALITIES``, or "speaker"; it says which protocol of :mod:`.protocol` the encoder has.
        name: of ours, of one that another package brings, or ``module:Class`` for any class that can be imported.
        weights: the name of a shipped folder or a path, as the encoder understands it; empty for its own default.

    Raises:
        ValueError: No such encoder for this modality, or it cannot be made; the message says which there are.
        WeightsError: The weights of one of ours cannot be used (a ValueError).
    """
    if modality not in _PROTOCOLS:
        raise ValueError(f"there is no modality {modality!r}: name an encoder for {', '.join(_PROTOCOLS)}")
    try:
        point = EntryPoint(name, name, GROUP) if ":" in name else _find(name)
        build = _load(point)
        if (found := getattr(build, "modality", None)) != modality:
            raise _UnusableError(f"{_said(point)} has the modality {found!r}")
        try:
            encoder = build(weights)
        except ValueError:
            raise  # which says itself what is wrong with the weights
        except Exception as error:  # whatever another package's code may raise
            reason = f"{type(error).__name__}: {error}"
            raise _UnusableError(f"{_said(point)} cannot be made of the weights {weights!r} ({reason})") from error
        if wrong := _lacks(encoder, _PROTOCOLS[modality]):
            raise _UnusableError(f"{_said(point)} has no usable {wrong}, see docs/encoders.md")
    except _UnusableError as error:
        raise ValueError(f"{error}; encoders for {modality} are: {', '.join(encoder_names(modality))}") from error
    return encoder


def check_name(name: str) -> None:
    """Look for an encoder without importing any.

    Raises:
        ValueError: there is none of that name, whatever its modality; the message says which there are.
    """
    names = [point.name for point in _points()]
    if ":" not in name and name not in names:
        raise ValueError(f"there is no encoder {name!r}; there are: {', '.join(names)}")


def encoder_names(modality: str) -> list[str]:
    """The names of all encoders for a modality, but for those that are defined twice or cannot be imported."""
    points = _points()
    count = Counter(point.name for point in points)
    names = []
    for point in points:
        try:
            if count[point.name] == 1 and getattr(_load(point), "modality", None) == modality:
                names.append(point.name)
        except _UnusableError:
            continue
    return names


def _points() -> list[EntryPoint]:
    ours = (EntryPoint(name, value, GROUP) for name, value in _OURS.items())
    return [*ours, *sorted(entry_points(group=GROUP), key=lambda point: point.name)]


def _find(name: str) -> EntryPoint:
    found = [point for point in _points() if point.name == name]
    if not found:
        raise _UnusableError(f"there is no encoder {name!r}")
    if len(found) > 1:
        raise _UnusableError(f"two encoders have the same name, uninstall one: {', '.join(map(_said, found))}")
    return found[0]


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever another package's code may raise
        raise _UnusableError(f"{_said(point)} cannot be imported ({type(error).__name__}: {error})") from error


def _said(point: EntryPoint) -> str:
    package = (
        f"{point.dist.name} {point.dist.version}" if point.dist else point.value.replace(":", ".").partition(".")[0]
    )
    return f"the encoder {point.name!r} of {package}"


def _lacks(encoder: Any, protocol: type) -> str:
    """The first thing of the protocol that the encoder has not, or not of its type or empty; "" if it has all."""
    for name in dir(protocol):
        asked, given = getattr(protocol, name), getattr(encoder, name, None)
        if isinstance(asked, property):
            kind = get_type_hints(asked.fget)["return"]
            if not isinstance(given, get_origin(kind) or kind) or (kind in (str, int) and not given):
                return f"{name} ({asked.fget.__annotations__['return']}), but {given!r}"
        elif not name.startswith("_") and not callable(given):
            return f"{name}()"
    return ""
