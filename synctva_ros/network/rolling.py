"""The dialogue so far, which rolls along: utterance in, estimate out, bounded memory, the same work for each."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from synctva_ros.events import MODALITIES, NANOSECONDS, Estimate, Features, FloatArray, Modality, modalities_of
from synctva_ros.network.explanation import distances, shares
from synctva_ros.network.incremental import State, Utterances, blank, captured, step
from synctva_ros.network.synctva import SyncTVA
from synctva_ros.network.weights import Description, load

_LOG = logging.getLogger(__name__)
#: How many earlier utterances an estimate names; those before them are not considered, to answer in time.
LONGEST_CONTEXT = 5
#: How many speakers are remembered of a dialogue, or as many as turns are kept if these are more.
MOST_SPEAKERS = 16
#: Longer than any dialogue, and still a difference of times that int64 holds [ns].
LONGEST_AGE = 1 << 62
#: How often the network runs to warm up.
WARM_UP_RUNS = 3


@dataclass(frozen=True, eq=False)
class _Turn:
    """What the network gets of an utterance.

    Attributes:
        utterance_id: its id.
        start: start of speech in ns.
        end: end of speech in ns.
        speaker_id: "" when unknown.
        vectors: in the order of ``MODALITIES``, None when missing.
        broken: the modalities left out because of NaN or infinity.
    """

    utterance_id: str
    start: int
    end: int
    speaker_id: str
    vectors: tuple[FloatArray | None, FloatArray | None, FloatArray | None]
    broken: tuple[str, ...] = ()

    @property
    def modalities(self) -> Modality:
        """Which vectors are there."""
        return modalities_of(self.vectors)


@dataclass(frozen=True)
class _Course:
    """Where a dialogue stands; it is never changed, only followed by the next one.

    Attributes:
        state: of the lines ``[1 + counterfactuals, ...]``: the dialogue, then the dialogue without its last turn,
            without the one before that, and so on.
        turns: utterance id and end in ns of the turns that can be named as context, the latest first; None for one that
            is out of reach.
        speakers: column in the memory of each speaker, those who spoke last at the end.
        last_end: the latest end of an utterance in ns.
        dialogue_id: "" before the first utterance.
        count: utterances so far.
    """

    state: State
    turns: tuple[tuple[str, int] | None, ...] = ()
    speakers: dict[str, int] = field(default_factory=dict)
    last_end: int | None = None
    dialogue_id: str = ""
    count: int = 0


@dataclass(frozen=True, eq=False)
class Ahead:
    """What an utterance would give, and where the dialogue would stand after it.

    Attributes:
        estimate: the answer.
        before: where the dialogue stood; what was looked at ahead holds only as long as it stands there.
    """

    estimate: Estimate
    before: _Course
    turn: _Turn
    course: _Course


class RollingDialogue:
    """Turns a stream of utterances into estimates, each seen in the dialogue so far.

    Utterances are taken in the order of their arrival; one whose times lie before those of the last is accepted, with
    no seconds between the two. A silence of more than ``pause`` between the end of the last utterance and the start of
    the next begins a new dialogue, and so does a clock that jumps back by more than ``pause`` (a bag played again).

    Nothing is computed again for a later utterance: what earlier turns send along the edges of the graphs is kept for
    as long as they are in the network's window (``synctva_ros.network.incremental``), and of all turns the network's
    memory. An estimate is what the network gives for the whole dialogue from its first turn, but for edges to turns out
    of reach. Such a turn is one that is not among the ``max_turns - 1`` turns before an utterance, or that had ended
    more than ``max_age`` before the start of it or of one in between. The utterance has no edge from it. With several
    rounds of graph attention something of it still comes over turns in between, which had it in reach when they were
    said. Its trace in the memory stays until the dialogue ends: only a new dialogue begins with an empty memory.

    For the explanation the dialogue is followed in several lines at a time: as it is, and for each of the turns that
    can be named as context, at most five, as if that turn had never been. The turns before it then move up, and one
    that is out of reach in the dialogue as it is may be in reach there. Only turns with a modality count as turns here.

    The memory holds the 16 speakers who spoke last. If one more speaks, the one who has been silent for longest is
    forgotten, and is a new person when speaking again.

    Not thread-safe: call it from one thread.

    Args:
        model: a causal network.
        description: what the weights say of themselves.
        max_turns: how many turns the graphs see, the present utterance included; never more than the network's window
            and the present one.
        max_age: turns that ended longer ago than this are out of reach for the graphs and the explanation [s].
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
        self._max_age = round(min(max_age * NANOSECONDS, LONGEST_AGE))
        self._pause = pause
        turns = min(max_turns - 1, model.config.window)
        self._counterfactuals = min(turns, LONGEST_CONTEXT)
        # A column is given away when all others have spoken since. A counterfactual has turns in its window of up to
        # turns + 1 back: with one column more the forgotten speaker has none in it.
        self._columns = max(MOST_SPEAKERS, turns + 2)
        with torch.inference_mode():
            self._blank = _Course(blank(model.config, 1 + self._counterfactuals, self._columns, turns, self._device))
            self._lines = _Lines(model, self._counterfactuals, self._device)
        self._step: Callable[[State, Utterances], tuple[Tensor, State]] = self._lines
        self._course = self._blank

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
        self._course = self._blank

    def add(self, features: Features) -> Estimate:
        """Take in the next utterance and estimate it.

        A vector with NaN or infinity counts as missing and is reported in the log; one of a modality that the network
        does not have counts as missing. An utterance without any modality gets the same probability for each class
        (confidence 1/C) and no contributions; it is a turn of the dialogue but later turns draw nothing from it.

        Args:
            features: the utterance; its id should be new.

        Returns:
            The estimate. ``contributions`` and ``context`` are as defined in ``synctva_ros.network.explanation``,
            with the five turns before this one considered. ``duration`` is the time that the network took [s].

        Raises:
            ValueError: a vector was made by another encoder than the weights were trained with, or has another width.
                Nothing has changed then.
        """
        return add_all([self], [features])[0]

    def look(self, features: Features) -> Ahead:
        """What :meth:`add` would give for this utterance, without changing the dialogue.

        For an utterance that may still grow, or whose end is not confirmed yet; :meth:`take` takes it in.

        Raises:
            ValueError: as for :meth:`add`.
        """
        return _look_ahead([(self, self._checked(features))])[0]

    def take(self, ahead: Ahead) -> Estimate:
        """Take in an utterance that was looked at; if the dialogue has moved on since, it is estimated anew."""
        if ahead.before is not self._course:
            ahead = _look_ahead([(self, ahead.turn)])[0]
        for modality in ahead.turn.broken:
            _LOG.warning(
                "utterance %s: the %s vector holds NaN or infinity and is left out", ahead.turn.utterance_id, modality
            )
        self._course = ahead.course
        return ahead.estimate

    def warm_up(self) -> None:
        """Run the network a few times, so that the first utterance is not a slow one.

        On a CUDA device what one utterance takes is also captured as a CUDA graph, which leaves out the processor's
        work between the operations. If that fails or gives something else, the log says so and the network runs as
        before. This was not tried: none of the machines that we tested on had a GPU.
        """
        generator = np.random.default_rng(0)
        text, audio, vision = (generator.standard_normal(w).astype(np.float32) for w in self._model.config.widths)
        dummy = _Turn("", 0, NANOSECONDS, "", (text, audio, vision))
        with torch.inference_mode():
            spoken = self._spoken([dummy], [-1], [0])
            state = self._blank.state
            for _ in range(WARM_UP_RUNS):
                _, state = self._lines(state, spoken)
            if self._device.type == "cuda":
                self._step = captured(self._lines, state, spoken)

    def _checked(self, features: Features) -> _Turn:
        """The utterance with its vectors as the network needs them, or a sentence that says why not."""
        given = (
            (features.text_vector, features.text_encoder),
            (features.audio_vector, features.audio_encoder),
            (features.vision_vector, features.vision_encoder),
        )
        vectors: list[FloatArray | None] = []
        broken: list[str] = []
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
                broken.append(modality)
                vectors.append(None)
                continue
            vectors.append(vector)
        return _Turn(
            features.utterance_id,
            features.start,
            features.end,
            features.speaker_id,
            (vectors[0], vectors[1], vectors[2]),
            tuple(broken),
        )

    def _before(self, turn: _Turn) -> _Course:
        """Where the dialogue, or a new one, stands when the utterance begins; it is given a column for its speaker."""
        course = self._course
        if course.last_end is not None:
            silence = (turn.start - course.last_end) / NANOSECONDS
            back = (course.last_end - turn.end) / NANOSECONDS
            if max(silence, back) > self._pause:
                course = self._blank
        if not turn.modalities:
            return course
        oldest = turn.start - self._max_age
        turns = tuple(old if old is not None and old[1] >= oldest else None for old in course.turns)
        if not turn.speaker_id:
            return replace(course, turns=turns)
        state, speakers = course.state, dict(course.speakers)
        column = speakers.pop(turn.speaker_id, None)
        if column is None:
            column = len(speakers)
            if column == self._columns:
                column = speakers.pop(next(iter(speakers)))
                blanked = state.speakers.clone()
                blanked[:, column] = 0.0
                state = state._replace(speakers=blanked)
        speakers[turn.speaker_id] = column
        return replace(course, state=state, turns=turns, speakers=speakers)

    def _spoken(self, turns: Sequence[_Turn], columns: Sequence[int], oldest: Sequence[int]) -> Utterances:
        """The utterances of as many dialogues as the network takes them."""
        widths = self._model.config.widths
        text, audio, vision = (
            np.stack([np.zeros(width, np.float32) if (v := turn.vectors[m]) is None else v for turn in turns])
            for m, width in enumerate(widths)
        )
        return Utterances(
            text=torch.from_numpy(text).to(self._device),
            audio=torch.from_numpy(audio).to(self._device),
            vision=torch.from_numpy(vision).to(self._device),
            mask=torch.tensor([[v is not None for v in turn.vectors] for turn in turns], device=self._device),
            start=torch.tensor([turn.start for turn in turns], device=self._device),
            end=torch.tensor([turn.end for turn in turns], device=self._device),
            speaker=torch.tensor(columns, device=self._device),
            oldest=torch.tensor(oldest, device=self._device),
        )

    def _after(self, turn: _Turn, course: _Course, heard: tuple[Tensor, State] | None) -> Ahead:
        """The utterance's estimate and where the dialogue stands after it.

        Args:
            turn: the utterance.
            course: what :meth:`_before` said.
            heard: the lines' probabilities ``[1 + counterfactuals + M, C]`` and the next state; None: nothing was
                perceived.
        """
        classes = len(self.labels)
        probabilities = np.full(classes, 1.0 / classes, dtype=np.float32)
        contributions = np.zeros(len(MODALITIES), dtype=np.float32)
        context: list[tuple[str, float]] = []
        state, turns = course.state, course.turns
        if heard is not None:
            answers, state = heard
            probabilities = answers[0].numpy()
            own = self._model.config.modalities
            by_turn, by_modality = distances(answers).split([self._counterfactuals, len(own)])
            present = [m for m in own if turn.vectors[m] is not None]
            contributions[present] = shares(by_modality[[own.index(m) for m in present]], 1.0 / len(present)).numpy()
            named = [(back, old[0]) for back, old in enumerate(turns) if old is not None]
            weights = shares(by_turn[[back for back, _ in named]], 0.0).tolist()
            context = [(name, weight) for (_, name), weight in zip(named, weights, strict=True) if weight > 0.0]
            turns = ((turn.utterance_id, turn.end), *turns)[: self._counterfactuals]
        dialogue_id = course.dialogue_id or _dialogue_id(turn)
        estimate = Estimate(
            utterance_id=turn.utterance_id,
            dialogue_id=dialogue_id,
            turn=course.count,
            labels=self.labels,
            probabilities=probabilities,
            contributions=contributions,
            modalities=turn.modalities,
            context=tuple(sorted(context, key=lambda one: -one[1])),
            model_id=self.model_id,
            duration=0.0,
        )
        last_end = turn.end if course.last_end is None else max(course.last_end, turn.end)
        after = _Course(state, turns, course.speakers, last_end, dialogue_id, course.count + 1)
        return Ahead(estimate, self._course, turn, after)


class _Lines:
    """One step of D dialogues, each in L = 1 + counterfactuals + M lines.

    They are the dialogue as it is, its counterfactuals, and the dialogue without each modality. A counterfactual is the
    dialogue as if one of its last turns had never been.
    """

    def __init__(self, model: SyncTVA, counterfactuals: int, device: torch.device) -> None:
        own = model.config.modalities
        self._model = model
        self._counterfactuals = counterfactuals
        # The lines without a modality of this utterance branch off from the dialogue as it is.
        self._origin = torch.tensor([*range(1 + counterfactuals), *(0 for _ in own)], device=device)
        kept = [
            [line - 1 - counterfactuals != own.index(m) if m in own else True for m in range(len(MODALITIES))]
            for line in range(len(self._origin))
        ]
        self._kept = torch.tensor(kept, device=device)

    def __call__(self, state: State, spoken: Utterances) -> tuple[Tensor, State]:
        """Take in an utterance of each dialogue.

        Args:
            state: ``[D (1 + counterfactuals), ...]``.
            spoken: ``[D, ...]``.

        Returns:
            The probabilities in the lines ``[D, L, C]``, and the next state.
        """
        lines, count = len(self._origin), self._counterfactuals
        old = State(*(tensor.unflatten(0, (-1, 1 + count)) for tensor in state))
        there = spoken.mask.unsqueeze(1)
        left = there & self._kept
        # Without its only modality there is no utterance: what is computed instead moves nothing.
        mask = torch.where(left.any(dim=-1, keepdim=True), left, there)
        repeated = Utterances(*(tensor.repeat_interleave(lines, dim=0) for tensor in spoken))
        output, after = step(
            self._model,
            State(*(tensor.index_select(1, self._origin).flatten(0, 1) for tensor in old)),
            repeated._replace(mask=mask.flatten(0, 1)),
        )
        new = State(*(tensor.unflatten(0, (-1, lines)) for tensor in after))
        # Without this turn the dialogue is as it was. Each counterfactual's turn is one further back now; the last is
        # dropped.
        followed = (
            torch.cat([now[:, :1], was[:, :1], now[:, 1:count]], dim=1)[:, : 1 + count].flatten(0, 1)
            for now, was in zip(new, old, strict=True)
        )
        return self._model.probabilities(output).unflatten(0, (-1, lines)), State(*followed)


def add_all(dialogues: Sequence[RollingDialogue], features: Sequence[Features]) -> list[Estimate]:
    """Take in the next utterance of each of several dialogues, in one step of the network.

    The same as :meth:`RollingDialogue.add` one after the other, but for the rounding of float32, and cheaper.

    Args:
        dialogues: with the same network on the same device and the same ``max_turns``, none of them twice.
        features: an utterance for each.

    Returns:
        Their estimates. ``duration`` is the time that the network took for all [s].

    Raises:
        ValueError: an utterance is refused as by :meth:`RollingDialogue.add`, or the dialogues do not fit together.
            Nothing has changed then in any of them.
    """
    if len(dialogues) != len(features):
        raise ValueError(f"{len(features)} utterances are given for {len(dialogues)} dialogues: give one for each")
    if len({id(dialogue) for dialogue in dialogues}) < len(dialogues):
        raise ValueError("a dialogue is named twice: add its utterances one after the other")
    kinds = {(id(one._model), one._blank.state.mask.shape) for one in dialogues}
    if len(kinds) > 1:
        raise ValueError("the dialogues have different networks or limits of turns: add to those that share both")
    turns = [one._checked(spoken) for one, spoken in zip(dialogues, features, strict=True)]
    found = _look_ahead(list(zip(dialogues, turns, strict=True)))
    return [one.take(ahead) for one, ahead in zip(dialogues, found, strict=True)]


@torch.inference_mode()
def _look_ahead(spoken: Sequence[tuple[RollingDialogue, _Turn]]) -> list[Ahead]:
    """What these utterances give, in one step for all that have modalities."""
    began = time.perf_counter()
    found: dict[int, Ahead] = {}
    heard: list[tuple[int, RollingDialogue, _Turn, _Course]] = []
    for number, (dialogue, turn) in enumerate(spoken):
        if turn.modalities:
            heard.append((number, dialogue, turn, dialogue._before(turn)))
        else:
            found[number] = dialogue._after(turn, dialogue._before(turn), None)
    if heard:
        first = heard[0][1]
        given = first._spoken(
            [turn for _, _, turn, _ in heard],
            [course.speakers.get(turn.speaker_id, -1) for _, _, turn, course in heard],
            [turn.start - dialogue._max_age for _, dialogue, turn, _ in heard],
        )
        states = [course.state for _, _, _, course in heard]
        if len(heard) == 1:
            answers, after = first._step(states[0], given)
            states = [after]
        else:
            answers, after = first._lines(State(*(torch.cat(parts) for parts in zip(*states, strict=True))), given)
            # Copies: a view would keep the states of all dialogues for as long as one of them is silent.
            parts = ([part.clone() for part in tensor.split(len(states[0].mask))] for tensor in after)
            states = [State(*tensors) for tensors in zip(*parts, strict=True)]
        for (number, dialogue, turn, course), answer, state in zip(heard, answers.cpu(), states, strict=True):
            found[number] = dialogue._after(turn, course, (answer, state))
    spent = time.perf_counter() - began
    ordered = (found[number] for number in range(len(spoken)))
    return [replace(ahead, estimate=replace(ahead.estimate, duration=spent)) for ahead in ordered]


def _dialogue_id(first: _Turn) -> str:
    """An id of nine characters that is the same when the same dialogue is replayed."""
    digest = hashlib.blake2s(f"{first.utterance_id} {first.start}".encode(), digest_size=4)
    return "d" + digest.hexdigest()
