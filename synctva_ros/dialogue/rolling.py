"""The dialogue so far, as a window that rolls along: utterance in, estimate out, bounded memory."""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from synctva_ros.network.synctva import MODALITIES, DialogueBatch, SyncTVA
from synctva_ros.network.weights import Description, load
from synctva_ros.types import NANOSECONDS, Estimate, Features, FloatArray, Modality

_LOG = logging.getLogger(__name__)
#: How many earlier utterances an estimate names.
LONGEST_CONTEXT = 5


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

    The window is recomputed for each utterance. It gives what the whole dialogue would give as long as no turn within
    the network's reach (``model.config.reach`` turns) has been forgotten. Not thread-safe: call it from one thread.

    Args:
        model: a causal network.
        description: what the weights say of themselves.
        max_turns: longest window, the present utterance included.
        max_age: turns that ended longer ago than this are forgotten [s].
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
        self._turns: deque[_Turn] = deque(maxlen=max_turns)
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
        self._last_end = None
        self._dialogue_id = ""
        self._count = 0

    def add(self, features: Features) -> Estimate:
        """Take in the next utterance and estimate it.

        A vector with NaN or infinity counts as missing and is reported in the log. An utterance without any modality
        gets the same probability for each class (confidence 1/C) and no contributions; it is a turn of the dialogue
        but later turns draw nothing from it.

        Args:
            features: the utterance; its id should be new.

        Returns:
            The estimate. ``context`` holds at most five earlier utterances, with their share in what the graphs'
            attention drew from earlier turns. ``duration`` is the time spent in here [s].

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
        while self._turns and turn.start - self._turns[0].end > self._max_age * NANOSECONDS:
            self._turns.popleft()

        modalities = Modality(0)
        for bit, vector in zip(Modality, turn.vectors, strict=True):
            if vector is not None:
                modalities |= bit
        classes = len(self.labels)
        probabilities = np.full(classes, 1.0 / classes, dtype=np.float32)
        contributions = np.zeros(len(MODALITIES), dtype=np.float32)
        context: tuple[tuple[str, float], ...] = ()
        if modalities:
            window = [*self._turns, turn][-(self._turns.maxlen or 1) :]
            probabilities, contributions, context = self._estimate(window)
            self._turns.append(turn)
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
        for present in itertools.product((False, True), repeat=len(MODALITIES)):
            if any(present):
                vectors = [
                    np.zeros(width, dtype=np.float32) if there else None
                    for there, width in zip(present, self._model.config.widths, strict=True)
                ]
                dummy = _Turn("", 0, NANOSECONDS, "", (vectors[0], vectors[1], vectors[2]))
                self._estimate([dummy, dummy])

    def _checked(self, features: Features) -> _Turn:
        """The utterance with its vectors as the network needs them, or a sentence that says why not."""
        given = (
            (features.text_vector, features.text_encoder),
            (features.audio_vector, features.audio_encoder),
            (features.vision_vector, features.vision_encoder),
        )
        vectors: list[FloatArray | None] = []
        for modality, width, (vector, encoder) in zip(MODALITIES, self._model.config.widths, given, strict=True):
            if vector is None:
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
    def _estimate(self, window: list[_Turn]) -> tuple[FloatArray, FloatArray, tuple[tuple[str, float], ...]]:
        """Probabilities, contributions and context of the last turn in the window."""
        output = self._model(self._batch(window).to(self._device))
        last = len(window) - 1
        source, target = output.context_index
        drawn = sorted(
            (
                (window[row].utterance_id, share)
                for row, share in zip(
                    source[target == last].tolist(), output.context_weight[target == last].tolist(), strict=True
                )
                if share > 0.0
            ),
            key=lambda named: -named[1],
        )
        return (
            self._model.probabilities(output)[last].cpu().numpy(),
            output.contributions[last].cpu().numpy(),
            tuple(drawn[:LONGEST_CONTEXT]),
        )

    def _batch(self, window: list[_Turn]) -> DialogueBatch:
        origin = window[0].start
        speakers: dict[str, int] = {}
        for turn in window:
            if turn.speaker_id:
                speakers.setdefault(turn.speaker_id, len(speakers))
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
            speaker=torch.tensor([speakers.get(turn.speaker_id, -1) for turn in window]),
            dialogue=torch.zeros(len(window), dtype=torch.long),
        )


def _dialogue_id(first: Features) -> str:
    """An id of nine characters that is the same when the same talk is replayed."""
    digest = hashlib.blake2s(f"{first.utterance_id} {first.start}".encode(), digest_size=4)
    return "d" + digest.hexdigest()
