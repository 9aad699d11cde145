"""Utterances, words and pictures in whatever order they come → features, each as early as it can be."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from synctva_ros.encoders.extractor import Face, FeatureExtractor, Voice
from synctva_ros.encoders.face import FaceObservation
from synctva_ros.events import EndedBy, Features, Transcript, Utterance

#: Utterances, and transcripts of those that have not come yet, that are remembered: topics may overtake each other.
REMEMBERED = 64
#: Wait at most so long for the face detector to reach the end of an utterance [s].
FACE_TIMEOUT = 0.5


@dataclass(frozen=True)
class Pictures:
    """What the face detector has found so far in the pictures of an utterance, and whether it has seen them all."""

    seen: int = 0
    observations: Sequence[FaceObservation] = ()
    complete: bool = True


@dataclass
class _Open:
    """An utterance on its way: what is known of it, and whether it is over."""

    utterance: Utterance
    voice: Voice
    face: Face | None = None
    features: Features | None = None
    endpoint_duration: float = 0.0
    confirmed: bool = False
    given: bool = False  # to on_partial
    face_until: float = float("inf")  # [s] steady clock: what has not come by then is done without
    words_until: float = float("inf")


class FeatureAssembler:
    """Encodes what comes at once, and puts it together when nothing is missing.

    What a pause is taken for (``partial``) is encoded inside the pause. When the utterance is confirmed (``utterance``)
    only what has changed or was missing is still to do; features of the same sound, words and pictures are the same
    whether there was a partial one or not. Utterances leave in the order in which they were confirmed.

    Not thread-safe: call it from one thread.

    Args:
        extractor: the encoders.
        pictures: called with start and end of an utterance [ns].
        expects_words: whether anybody is there who gives transcripts.
        words_timeout: wait at most so long for the words of a confirmed utterance [s].
        on_partial: called with features of an utterance that is not over, of what was said so far (``ended_by`` is
            ``SPEAKING``, no words) or of what it is if the pause holds.
        on_utterance: called with the features of an utterance, once for each.
        on_timeout: called with the id of an utterance that goes on without its words.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        pictures: Callable[[int, int], Pictures],
        expects_words: Callable[[], bool],
        words_timeout: float,
        on_partial: Callable[[Features], None],
        on_utterance: Callable[[Features], None],
        on_timeout: Callable[[str], None],
    ) -> None:
        self._extractor = extractor
        self._pictures = pictures
        self._expects_words = expects_words
        self._words_timeout = words_timeout
        self._on_partial = on_partial
        self._on_utterance = on_utterance
        self._on_timeout = on_timeout
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._over: deque[str] = deque(maxlen=REMEMBERED)
        # By utterance, and by the end of what was taken for it [ns]; None: of the utterance itself.
        self._transcripts: OrderedDict[tuple[str, int | None], Transcript] = OrderedDict()

    @property
    def due(self) -> float | None:
        """When something will be done without, on the steady clock [s], unless it comes; None: nothing is waited for.

        Call :meth:`advance` then.
        """
        for open_ in self._open.values():
            if open_.confirmed:
                return open_.face_until if open_.face is None else open_.words_until
        return None

    def partial(self, utterance: Utterance, endpoint_duration: float) -> None:
        """Take what was said so far, or what a pause is taken for; ``endpoint_duration`` [s] as in its message."""
        if utterance.utterance_id in self._over:
            return
        voice = self._extractor.voice(utterance)
        if utterance.ended_by == EndedBy.SPEAKING:
            pictures = self._pictures(utterance.start, utterance.end)
            face = self._extractor.look(pictures.seen, pictures.observations)
            self._on_partial(self._extractor.features(utterance, voice, face, None, endpoint_duration))
            return
        self._open[utterance.utterance_id] = _Open(utterance, voice, endpoint_duration=endpoint_duration)
        if len(self._open) > REMEMBERED:
            unconfirmed = (identity for identity, open_ in self._open.items() if not open_.confirmed)
            del self._open[next(unconfirmed, utterance.utterance_id)]
        self.advance()

    def utterance(self, utterance: Utterance, endpoint_duration: float) -> None:
        """Take an utterance that is over."""
        identity = utterance.utterance_id
        open_ = self._open.pop(identity, None)
        if open_ is None or not open_.utterance.is_same_sound(utterance):
            open_ = _Open(utterance, self._extractor.voice(utterance))
        self._over.append(identity)
        self._open[identity] = open_  # at the end: the order is that in which they were confirmed
        open_.utterance = utterance
        open_.endpoint_duration = endpoint_duration
        open_.confirmed = True
        now = time.monotonic()
        open_.face_until = now + FACE_TIMEOUT
        open_.words_until = now + (self._words_timeout if self._expects_words() else 0.0)
        self.advance()

    def transcript(self, transcript: Transcript, end: int | None = None) -> None:
        """Take words: those of the utterance, or, with ``end`` [ns], of what was taken for it and ended then."""
        self._transcripts[transcript.utterance_id, end] = transcript
        while len(self._transcripts) > REMEMBERED:
            self._transcripts.popitem(last=False)
        self.advance()

    def advance(self) -> None:
        """Give out what is complete; call it also when pictures were looked at, and when it is ``due``."""
        blocked = False
        for identity, open_ in list(self._open.items()):
            features = self._complete(open_)
            if features is None:
                blocked = blocked or open_.confirmed
            elif not open_.confirmed:
                if not open_.given:
                    open_.given = True
                    self._on_partial(features)
            elif not blocked:
                del self._open[identity]
                for key in [key for key in self._transcripts if key[0] == identity]:
                    del self._transcripts[key]
                self._on_utterance(features)

    def _complete(self, open_: _Open) -> Features | None:
        """The features of an utterance, None as long as something is missing that may still come."""
        utterance, now = open_.utterance, time.monotonic()
        if open_.face is None:
            pictures = self._pictures(utterance.start, utterance.end)
            if not pictures.complete and now < open_.face_until:
                return None
            open_.face = self._extractor.look(pictures.seen, pictures.observations)
        if open_.features is None:
            words = self._transcripts.get((utterance.utterance_id, None)) or self._transcripts.get(
                (utterance.utterance_id, utterance.end)
            )
            if words is None:
                if now < open_.words_until and (open_.confirmed or self._expects_words()):
                    return None
                if open_.confirmed and self._expects_words():
                    self._on_timeout(utterance.utterance_id)
            open_.features = self._extractor.features(
                utterance, open_.voice, open_.face, words, open_.endpoint_duration
            )
        durations = open_.features.durations | {"endpoint": open_.endpoint_duration}
        return replace(open_.features, ended_by=utterance.ended_by, durations=durations)
