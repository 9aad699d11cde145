"""The seven emotions by the names that others give them."""

from __future__ import annotations

from synctva_ros.events import EMOTIONS

#: What other corpora (RAVDESS, FER2013) call our classes. Calm speech is neutral.
NAMES = {
    "calm": "neutral",
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "fearful": "fear",
    "disgusted": "disgust",
}


def class_index(name: str) -> int:
    """Index into ``EMOTIONS`` of a corpus's class name.

    Raises:
        ValueError: it is none of them by any name.
    """
    emotion = NAMES.get(name, name)
    if emotion not in EMOTIONS:
        raise ValueError(f"class {name!r} is none of {', '.join(EMOTIONS)}: say in NAMES which of them it is")
    return EMOTIONS.index(emotion)
