"""The causal network one utterance at a time, for B lines at once, at the same cost however long the dialogue is.

A line is one course of a dialogue. What later turns need of the earlier ones is kept in a :class:`State` of fixed size:
the dialogue memory, and what each turn in the window sends along the edges of each graph in each round. So nothing
of an earlier turn is computed twice, and with several rounds an edge carries what its turn sent when it was said.

The formulas are those of the modules, whose ``step`` methods stand beside their ``forward``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from synctva_ros.events import NANOSECONDS

from .enhancement import MemoryState
from .graphs import SAME_UTTERANCE, PastEdges, earlier_type, edge_features
from .synctva import SyncTVA, SyncTVAConfig, SyncTVAOutput

_LOG = logging.getLogger(__name__)
#: Runs before a capture, in which the libraries choose their kernels and take their buffers.
RUNS_BEFORE_CAPTURE = 3
#: Probabilities of a captured step may differ by this much from those of the plain one.
CAPTURE_TOLERANCE = 1e-4


class State(NamedTuple):
    """What is kept of B lines: a tuple of tensors, so that what is done to all of them is written once.

    W is the number of turns kept, at most the network's window; the latest comes first. Where no turn is, or one that
    is out of reach, the mask is False, and nothing else is read.

    Attributes:
        dialogue: memory of the dialogue ``[B, d]``, of width 0 without a memory.
        speakers: memory of each of the S speakers ``[B, S, d]``, of width 0 without a memory.
        sent: what the turns send, of each graph and round for its two modalities ``[B, W, graphs, layers, 2, d]``.
        mask: which modalities the turns have, bool ``[B, W, 3]``.
        end: end of the turns in nanoseconds, int64 ``[B, W]``.
        speaker: column of the turns' speakers, -1 when unknown ``[B, W]``.
    """

    dialogue: Tensor
    speakers: Tensor
    sent: Tensor
    mask: Tensor
    end: Tensor
    speaker: Tensor


class Utterances(NamedTuple):
    """The next utterance of each of B lines. Times are whole nanoseconds; those of a long dialogue do not fit float32.

    Attributes:
        text: text vectors ``[B, widths[0]]``; also of width 0 where the network has none.
        audio: audio vectors ``[B, widths[1]]``.
        vision: vision vectors ``[B, widths[2]]``.
        mask: which modalities are there, bool ``[B, 3]``. A line without any gets NaN and is not to be carried on.
        start: start of speech, int64 ``[B]``.
        end: end of speech, int64 ``[B]``.
        speaker: column of the speaker in the state, less than S; -1 when unknown ``[B]``.
        oldest: turns that ended before this are out of reach from now on, int64 ``[B]``.
    """

    text: Tensor
    audio: Tensor
    vision: Tensor
    mask: Tensor
    start: Tensor
    end: Tensor
    speaker: Tensor
    oldest: Tensor


def blank(
    config: SyncTVAConfig, lines: int, speakers: int, turns: int | None = None, device: torch.device | str = "cpu"
) -> State:
    """The state of lines in which nothing has been said.

    Args:
        config: of a causal network.
        lines: B.
        speakers: S, at least 1.
        turns: W; None: the network's window.
        device: where the network runs.

    Raises:
        ValueError: the network is not causal, S is not positive, or W is not one of 0 to its window.
    """
    turns = config.window if turns is None else turns
    if config.context != "causal":
        raise ValueError(f"the network sees later turns (context {config.context!r}): choose a causal one")
    if speakers < 1 or not 0 <= turns <= config.window:
        raise ValueError(
            f"{speakers} speakers and {turns} turns cannot be kept: ask for one speaker or more and for up to "
            f"{config.window} turns, the network's window"
        )
    remembers = not {"enhancement", "memory"} & set(config.without)
    width = config.hidden if remembers else 0
    return State(
        dialogue=torch.zeros(lines, width, device=device),
        speakers=torch.zeros(lines, speakers, width, device=device),
        sent=torch.zeros(lines, turns, len(config.graphs), config.layers, 2, config.hidden, device=device),
        mask=torch.zeros(lines, turns, 3, dtype=torch.bool, device=device),
        end=torch.zeros(lines, turns, dtype=torch.long, device=device),
        speaker=torch.full((lines, turns), -1, device=device),
    )


def step(model: SyncTVA, state: State, spoken: Utterances) -> tuple[SyncTVAOutput, State]:
    """Take in one utterance in each of B lines.

    The output is that of ``SyncTVA.forward`` for the last rows of the whole dialogues, if W is the network's window and
    no turn was too old. Otherwise it is that of ``forward`` without the edges to turns out of reach. Nothing waits for
    the device, and what is done depends on the shapes alone, so that it can be captured as a CUDA graph.

    Args:
        model: a causal network in evaluation mode. Vectors are not checked.
        state: of the lines; it is left as it is.
        spoken: the utterances.

    Returns:
        What the network says of the utterances, and the state after them.
    """
    turns = state.mask.shape[1]
    there = state.mask & (state.end >= spoken.oldest.unsqueeze(1)).unsqueeze(-1)
    # The other modality of the same utterance is at no distance.
    steps = torch.arange(1 + turns, device=state.end.device).expand(len(state.end), -1)
    ends = torch.cat([spoken.start.unsqueeze(1), state.end], dim=1)
    silence = (spoken.start.unsqueeze(1) - ends).clamp(min=0).to(state.sent.dtype) / NANOSECONDS
    features = edge_features(steps / model.config.window, silence)
    over_time = earlier_type(state.speaker, spoken.speaker.unsqueeze(1))
    types = torch.nn.functional.pad(over_time, (1, 0), value=SAME_UTTERANCE)
    sent: list[Tensor] = []

    def remember(inputs: Tensor) -> tuple[Tensor, MemoryState | None]:
        if not model.memory:
            return inputs[:, :0], None
        past = MemoryState(state.dialogue, state.speakers)
        return model.memory[0].step(inputs, spoken.speaker, past)  # type: ignore[operator, no-any-return]

    def connect(number: int, nodes: list[Tensor], mask: Tensor) -> list[Tensor]:
        pair = model.config.graphs[number]
        of_turns = torch.stack([there[:, :, m] for m in pair], dim=-1)
        edges = PastEdges(types, features, torch.cat([mask.flip(1).unsqueeze(1), of_turns], dim=1))
        nodes, given = model.graphs[number].step(nodes, state.sent[:, :, number], edges)  # type: ignore[operator]
        sent.append(given)
        return nodes

    output = model.stages((spoken.text, spoken.audio, spoken.vision), spoken.mask, remember, connect)
    memory = output.memory or MemoryState(state.dialogue, state.speakers)
    newest = torch.stack(sent, dim=1) if sent else state.sent.new_zeros(len(state.sent), *state.sent.shape[2:])
    window = (
        torch.cat([new.unsqueeze(1), old], dim=1)[:, :turns]
        for new, old in (
            (newest, state.sent),
            (spoken.mask, there),
            (spoken.end, state.end),
            (spoken.speaker, state.speaker),
        )
    )
    return output, State(memory.dialogue, memory.speakers, *window)


class CapturedStep:
    """A step as one CUDA graph: the same operations, without the processor's work between them.

    Written after the documentation of ``torch.cuda.graph``; not yet run on a GPU.

    Args:
        call: from a state and utterances to a tensor and the next state; nothing in it may wait for the device.
        state: for the shapes, on a CUDA device.
        spoken: for the shapes.
    """

    def __init__(
        self, call: Callable[[State, Utterances], tuple[Tensor, State]], state: State, spoken: Utterances
    ) -> None:
        self._device = state.mask.device
        self._given = [tensor.clone() for tensor in (*state, *spoken)]
        held = State(*self._given[: len(state)]), Utterances(*self._given[len(state) :])
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(RUNS_BEFORE_CAPTURE):
                    call(*held)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                answer, after = call(*held)
            self._made = [answer, *after]

    def __call__(self, state: State, spoken: Utterances) -> tuple[Tensor, State]:
        """Run it; what is returned is the caller's own."""
        with torch.cuda.device(self._device):
            for held, tensor in zip(self._given, (*state, *spoken), strict=True):
                held.copy_(tensor)
            self._graph.replay()
            answer, *after = (tensor.clone() for tensor in self._made)
        return answer, State(*after)


def captured(
    call: Callable[[State, Utterances], tuple[Tensor, State]], state: State, spoken: Utterances
) -> Callable[[State, Utterances], tuple[Tensor, State]]:
    """The call as a CUDA graph if that works and gives the same for the state and utterances, else the call itself."""
    plain, _ = call(state, spoken)
    try:
        graph = CapturedStep(call, state, spoken)
        difference = float((graph(state, spoken)[0] - plain).abs().max())
    except RuntimeError as error:
        _LOG.warning("the network cannot be captured as a CUDA graph and runs without: %s", error)
        return call
    if not difference <= CAPTURE_TOLERANCE:
        _LOG.warning("captured as a CUDA graph the network is off by %g, so it runs without", difference)
        return call
    return graph
