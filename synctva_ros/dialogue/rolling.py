"""The dialogue so far, as a window that rolls along: utterance in, estimate out, bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from synctva_ros.network.enhancement import MemoryState
from synctva_ros.network.explanation import explain
from synctva_ros.network.synctva import MODALITIES, DialogueBatch, SyncTVA
from synctva_ros.network.weights import Description, load
from synctva_ros.types import NANOSECONDS, Estimate, Features, FloatArray, Modality

_LOG = logging.getLogger(__name__)
#: How many earlier utterances an estimate names; those before them are not considered, to answer in time.
LONGEST_CONTEXT = 5
#: How many speakers are remembered of a dialogue, or as many as turns are kept if these are more.
MOST_SPEAKERS = 16


@dataclass(frozen=True)
class _Turn:
    """What is kept of an utterance: its vectors (None when missing) in the order of ``MODALITIES``, times in ns."""

    utterance_id: str
    start: int
    end: int
    speaker_id: str
    vectors: tuple[FloatArray | None, FloatArray | None, FloatArray | None]


class RollingDialogue:
    """Turns a stream of utterances into estimates, each seen in the dialogue so far.

    Utterances are taken in the order of their arrival; one whose times lie before those of the last is accepted, with
    no seconds between the two. A silence of more than ``pause`` between the end of the last utterance and the start of
    the next begins a new dialogue, and so does a clock that jumps back by more than ``pause`` (a bag played again).

    The turns in the window are recomputed for each utterance; of those before them the network's memory is kept, one
    state of fixed size. So an estimate is what the whole dialogue from its first turn would give, as long as the window
    holds the turns that the graphs reach and one more, which moves up when another is left out to explain the estimate
    (``model.config.reach + 1`` turns before the present one; more are never kept).

    A turn that leaves the window is out of reach for the graphs and for the explanation. Its trace in the memory stays
    until the dialogue ends, also if it left because of ``max_age``: only a new dialogue begins with an empty memory.

    The memory holds the 16 speakers who spoke last. If one more speaks, the one who has been silent for longest is
    forgotten, and is a new person when speaking again.

    Not thread-safe: call it from one thread.

    Args:
        model: a causal network.
        description: what the weights say of themselves.
        max_turns: longest window, the present utterance included.
        max_age: turns that ended longer ago than this leave the window [s].
        pause: silence that ends a dialogue [s].
        device: where the network shall run.

    Raises:
        ValueError: the weights are not causal, or a limit is not positive.
    """

    def __init__(
        self,
        model: SyncTVA,
        description: Description,
        *,
        max_turns: int = 32,
        max_age: float = 600.0,
        pause: float = 60.0,
        device: torch.device | str = "cpu",
    ) -> None:
        if model.config.context != "causal":
            raise ValueError(
                f"{description.model_id} sees later turns (context {model.config.context!r}): choose causal weights"
            )
        if max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, not {max_turns}")
        if not max_age > 0.0 or not pause > 0.0:
            raise ValueError(f"max_age ({max_age}) and pause ({pause}) must be positive seconds")
        self._model = model.to(device).eval()
        self._device = torch.device(device)
        self._description = description
        self._max_age = max_age
        self._pause = pause
        self._kept = min(max_turns, model.config.reach + 2)
        self._turns: deque[_Turn] = deque()
        self._past: MemoryState | None = None
        # Name and column of each speaker in the memory, those who spoke last at the end.
        self._speakers: OrderedDict[str, int] = OrderedDict()
        self._last_end: int | None = None
        self._dialogue_id = ""
        self._count = 0

    @classmethod
    def from_weights(
        cls,
        folder: Path | str,
        device: torch.device | str = "cpu",
        *,
        max_turns: int = 32,
        max_age: float = 600.0,
        pause: float = 60.0,
    ) -> RollingDialogue:
        """Load the weights in ``folder``.

        Raises:
            WeightsError: the weights cannot be used.
            ValueError: as for the class.
        """
        model, description = load(folder, device)
        return cls(model, description, max_turns=max_turns, max_age=max_age, pause=pause, device=device)

    @property
    def model_id(self) -> str:
        """Name and version of the weights."""
        return self._description.model_id

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of ``Estimate.probabilities``."""
        return self._description.labels

    def reset(self) -> None:
        """Forget the dialogue; the next utterance begins a new one."""
        self._turns.clear()
        self._past = None
        self._speakers.clear()
        self._last_end = None
        self._dialogue_id = ""
        self._count = 0

    def add(self, features: Features) -> Estimate:
        """Take in the next utterance and estimate it.

        A vector with NaN or infinity counts as missing and is reported in the log; one of a modality that the network
        does not have counts as missing. An utterance without any modality gets the same probability for each class
        (confidence 1/C) and no contributions; it is a turn of the dialogue but later turns draw nothing from it.

        Args:
            features: the utterance; its id should be new.

        Returns:
            The estimate. ``contributions`` and ``context`` are as defined in ``synctva_ros.network.explanation``,
            with the five turns before this one considered. ``duration`` is the time spent in here [s].

        Raises:
            ValueError: a vector was made by another encoder than the weights were trained with, or has another width.
                Nothing has changed then.
        """
        began = time.perf_counter()
        turn = self._checked(features)
        if self._last_end is not None:
            silence = (turn.start - self._last_end) / NANOSECONDS
            back = (self._last_end - turn.end) / NANOSECONDS
            if max(silence, back) > self._pause:
                self.reset()
        age = self._max_age * NANOSECONDS
        self._move_on(sum(1 for _ in itertools.takewhile(lambda old: turn.start - old.end > age, self._turns)))

        modalities = Modality(0)
        for bit, vector in zip(Modality, turn.vectors, strict=True):
            if vector is not None:
                modalities |= bit
        classes = len(self.labels)
        probabilities = np.full(classes, 1.0 / classes, dtype=np.float32)
        contributions = np.zeros(len(MODALITIES), dtype=np.float32)
        context: tuple[tuple[str, float], ...] = ()
        if modalities:
            self._move_on(len(self._turns) + 1 - self._kept)
            self._meet(turn.speaker_id)
            self._turns.append(turn)
            probabilities, contributions, context = self._estimate(list(self._turns), self._past)
        if not self._dialogue_id:
            self._dialogue_id = _dialogue_id(features)
        number, self._count = self._count, self._count + 1
        self._last_end = turn.end if self._last_end is None else max(self._last_end, turn.end)
        return Estimate(
            utterance_id=features.utterance_id,
            dialogue_id=self._dialogue_id,
            turn=number,
            labels=self.labels,
            probabilities=probabilities,
            contributions=contributions,
            modalities=modalities,
            context=context,
            model_id=self.model_id,
            duration=time.perf_counter() - began,
        )

    def warm_up(self) -> None:
        """Run the network once for each subset of the modalities, so that the first utterance is not a slow one."""
        own = self._model.config.modalities
        for present in itertools.product((False, True), repeat=len(own)):
            if any(present):
                vectors: list[FloatArray | None] = [None] * len(MODALITIES)
                for m in itertools.compress(own, present):
                    vectors[m] = np.zeros(self._model.config.widths[m], dtype=np.float32)
                dummy = _Turn("", 0, NANOSECONDS, "", (vectors[0], vectors[1], vectors[2]))
                self._estimate([dummy, dummy], None)

    def _checked(self, features: Features) -> _Turn:
        """The utterance with its vectors as the network needs them, or a sentence that says why not."""
        given = (
            (features.text_vector, features.text_encoder),
            (features.audio_vector, features.audio_encoder),
            (features.vision_vector, features.vision_encoder),
        )
        vectors: list[FloatArray | None] = []
        for modality, width, (vector, encoder) in zip(MODALITIES, self._model.config.widths, given, strict=True):
            if vector is None or not width:
                vectors.append(None)
                continue
            wanted = self._description.encoders[modality]
            if encoder != wanted:
                raise ValueError(
                    f"utterance {features.utterance_id!r}: the {modality} vector is from the encoder {encoder!r}, but "
                    f"the weights {self.model_id!r} need {wanted!r}: run that encoder or choose other weights"
                )
            if np.shape(vector) != (width,):
                raise ValueError(
                    f"utterance {features.utterance_id!r}: the {modality} vector has shape {np.shape(vector)}, but the "
                    f"weights {self.model_id!r} need ({width},): run the encoder that they were trained with"
                )
            vector = np.array(vector, dtype=np.float32)
            if not np.isfinite(vector).all():
                _LOG.warning(
                    "utterance %s: the %s vector holds NaN or infinity and is left out", features.utterance_id, modality
                )
                vectors.append(None)
                continue
            vectors.append(vector)
        return _Turn(
            features.utterance_id,
            features.start,
            features.end,
            features.speaker_id,
            (vectors[0], vectors[1], vectors[2]),
        )

    @torch.inference_mode()
    def _move_on(self, count: int) -> None:
        """Let the oldest turns leave the window; the memory keeps their trace."""
        if count > 0:
            leaving = [self._turns.popleft() for _ in range(count)]
            self._past = self._model(self._batch(leaving).to(self._device), self._past).memory

    @torch.inference_mode()
    def _meet(self, speaker_id: str) -> None:
        """Give a speaker a column in the memory, if need be that of the one who has been silent for longest."""
        if not speaker_id:
            return
        if speaker_id not in self._speakers:
            column = len(self._speakers)
            # With no fewer columns than turns in the window, the forgotten one has no turn in it.
            if column >= max(MOST_SPEAKERS, self._kept):
                _, column = self._speakers.popitem(last=False)
                if self._past is not None:
                    self._past.speakers[:, column] = 0.0
            self._speakers[speaker_id] = column
        self._speakers.move_to_end(speaker_id)

    def _estimate(
        self, window: list[_Turn], past: MemoryState | None
    ) -> tuple[FloatArray, FloatArray, tuple[tuple[str, float], ...]]:
        """Probabilities, contributions and context of the last turn in the window."""
        found = explain(self._model, self._batch(window).to(self._device), past, nearest=LONGEST_CONTEXT)
        mattered = [
            (turn.utterance_id, weight)
            for turn, weight in zip(window[:-1], found.context.tolist(), strict=True)
            if weight > 0.0
        ]
        return (
            found.probabilities.cpu().numpy(),
            found.contributions.cpu().numpy(),
            tuple(sorted(mattered, key=lambda named: -named[1])),
        )

    def _batch(self, window: list[_Turn]) -> DialogueBatch:
        origin = window[0].start
        text, audio, vision = (
            torch.from_numpy(
                np.stack(
                    [np.zeros(width, dtype=np.float32) if (v := turn.vectors[m]) is None else v for turn in window]
                )
            )
            for m, width in enumerate(self._model.config.widths)
        )
        return DialogueBatch(
            text=text,
            audio=audio,
            vision=vision,
            mask=torch.tensor([[vector is not None for vector in turn.vectors] for turn in window]),
            start=torch.tensor([(turn.start - origin) / NANOSECONDS for turn in window]),
            end=torch.tensor([(turn.end - origin) / NANOSECONDS for turn in window]),
            speaker=torch.tensor([self._speakers.get(turn.speaker_id, -1) for turn in window]),
            dialogue=torch.zeros(len(window), dtype=torch.long),
        )


def _dialogue_id(first: Features) -> str:
    """An id of nine characters that is the same when the same talk is replayed."""
    digest = hashlib.blake2s(f"{first.utterance_id} {first.start}".encode(), digest_size=4)
    return "d" + digest.hexdigest()
