"""Modality-specific dynamic enhancement (MSDE), the first stage of Sync-TVA.

Source: Deng et al., "Sync-TVA", https://arxiv.org/abs/2507.21395, whose abstract asks for "modality-specific dynamic
enhancement". We had the abstract, not the equations: the formulas below are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Standardised inputs are kept within this many deviations.
LARGEST_INPUT = 4.0
#: Share of the input's channels dropped in training, since there often are more channels than dialogues. Vectors of so
#: few channels that each of them counts (the answers of another network) are left whole.
INPUT_DROPOUT, FEW_CHANNELS = 0.25, 16


class Projection(nn.Module):
    r"""One modality's encoder vector in the network's width.

    .. math:: h = \mathrm{LayerNorm}\big(\mathrm{GELU}(W \, \mathrm{clip}_{\pm 4}((x - \mu) / \sigma) + b)\big)

    :math:`\mu, \sigma` ``[width]`` are those of the training data (see :meth:`fit`) and are stored with the weights,
    because encoders differ in scale by orders of magnitude. Clipped, because one channel far from all that was seen in
    training (a broken microphone) would drown the others.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.dropout = nn.Dropout(INPUT_DROPOUT if width > FEW_CHANNELS else 0.0)
        self.linear = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take mean and deviation from the training vectors ``[n, width]``; constant channels keep deviation 1."""
        self.mean.copy_(vectors.mean(dim=0))
        deviation = vectors.std(dim=0, correction=0)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, vectors: Tensor) -> Tensor:
        """Project ``[N, width]`` to ``[N, d]``."""
        standardised = ((vectors - self.mean) / self.deviation).clamp(-LARGEST_INPUT, LARGEST_INPUT)
        projected: Tensor = self.norm(nn.functional.gelu(self.linear(self.dropout(standardised))))
        return projected


@dataclass(frozen=True)
class Layout:
    """Where each utterance stands in its dialogue: what the recurrences walk along.

    Attributes:
        dialogue: number of the dialogue ``[N]``, from 0 without gaps.
        turn: number of the turn in its dialogue ``[N]``, from 0.
        speaker: index of the speaker ``[N]``, -1 when unknown.
        length: turns of each dialogue ``[B]``.
    """

    dialogue: Tensor
    turn: Tensor
    speaker: Tensor
    length: Tensor

    @classmethod
    def of(cls, dialogue: Tensor, speaker: Tensor) -> Layout:
        """Lay out rows whose dialogue index never falls ``[N]`` with their speakers ``[N]``."""
        _, number, length = torch.unique_consecutive(dialogue, return_inverse=True, return_counts=True)
        first = length.cumsum(0) - length
        return cls(number, torch.arange(len(dialogue), device=dialogue.device) - first[number], speaker, length)

    def backwards(self) -> Layout:
        """The same rows, each dialogue from its end."""
        return Layout(self.dialogue, self.length[self.dialogue] - 1 - self.turn, self.speaker, self.length)


@dataclass(frozen=True)
class MemoryState:
    """What is remembered of B dialogues: of each as a whole ``[B, d]``, of each of its S speakers ``[B, S, d]``."""

    dialogue: Tensor
    speakers: Tensor


class DialogueMemory(nn.Module):
    r"""Two recurrent states: one of the whole dialogue, one of the present speaker.

    The cell is the gated recurrent unit (Cho et al., https://arxiv.org/abs/1406.1078). For utterance :math:`i` with
    input :math:`x_i` and the state :math:`s` that its dialogue, or its speaker, had before it:

    .. math::
        z_i, r_i &= \sigma(W_{z,r} x_i + U_{z,r} s + b), \qquad
        n_i = \tanh(W_n x_i + b_n + r_i \odot (U_n s + c_n)) \\
        s_i &= (1 - z_i) \odot n_i + z_i \odot s

    An utterance of an unknown speaker has no speaker state and leaves none. A person's mood outlasts what others say in
    between, which is why the speaker's state is kept apart (as in DialogueRNN, https://arxiv.org/abs/1811.00405).

    All steps multiply matrices of the same shape ``[B, d]`` whoever speaks, so that nothing that comes later changes
    the last bit of what came before.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.inputs = nn.ModuleList(nn.Linear(width, 3 * hidden) for _ in range(2))
        self.states = nn.ModuleList(nn.Linear(hidden, 3 * hidden) for _ in range(2))
        for state in self.states:
            for gate in state.weight.chunk(3):  # type: ignore[operator]
                nn.init.orthogonal_(gate)

    def forward(self, inputs: Tensor, layout: Layout, past: MemoryState | None = None) -> tuple[Tensor, MemoryState]:
        """Walk along the dialogues.

        Args:
            inputs: ``[N, width]``.
            layout: where each row stands.
            past: states before the first rows; None for empty ones. Speaker s of ``layout`` is column s.

        Returns:
            The states of dialogue and speaker after each utterance, ``[N, 2 d]``, and what is left at the end.

        Raises:
            ValueError: ``past`` is of another number of dialogues.
        """
        count, steps = len(layout.length), int(layout.length.max())
        if past is not None and len(past.dialogue) != count:
            raise ValueError(
                f"the past of {len(past.dialogue)} dialogues is given for a batch of {count}: give one state for each"
            )
        cell = layout.dialogue * steps + layout.turn
        # The cells behind the end of a shorter dialogue are computed and never read.
        blank = inputs.new_zeros(count * steps, 3 * self.hidden)
        given = [blank.index_copy(0, cell, linear(inputs)).view(count, steps, -1) for linear in self.inputs]
        speaker = torch.full((count * steps,), -1, device=inputs.device).index_copy(0, cell, layout.speaker)
        who = speaker.view(count, steps, 1)

        columns = max(int(layout.speaker.max()) + 1, 1)
        if past is None:
            past = MemoryState(inputs.new_zeros(count, self.hidden), inputs.new_zeros(count, 0, self.hidden))
        dialogue, speakers = past.dialogue, past.speakers
        if speakers.shape[1] < columns:
            new_columns = speakers.new_zeros(count, columns - speakers.shape[1], self.hidden)
            speakers = torch.cat([speakers, new_columns], dim=1)
        there = torch.arange(steps, device=inputs.device) < layout.length.unsqueeze(1)
        states = []
        for step in range(steps):
            state, after = self._walk([of[:, step] for of in given], who[:, step], MemoryState(dialogue, speakers))
            # Behind the end of a shorter dialogue nobody speaks: only its own state has to be kept.
            dialogue = torch.where(there[:, step].unsqueeze(1), after.dialogue, dialogue)
            speakers = after.speakers
            states.append(state)
        return torch.stack(states, dim=1).flatten(0, 1)[cell], MemoryState(dialogue, speakers)

    def step(self, inputs: Tensor, speaker: Tensor, past: MemoryState) -> tuple[Tensor, MemoryState]:
        """Go on by one utterance in each of B dialogues.

        Args:
            inputs: ``[B, width]``.
            speaker: column of who speaks ``[B]``, -1 when unknown.
            past: states before, with a column for each speaker.

        Returns:
            The states of dialogue and speaker after the utterance, ``[B, 2 d]``, and all that is remembered.
        """
        return self._walk([linear(inputs) for linear in self.inputs], speaker.unsqueeze(1), past)

    def _walk(self, given: list[Tensor], who: Tensor, past: MemoryState) -> tuple[Tensor, MemoryState]:
        """One step from what the inputs give ``[B, 3 d]`` to both states; ``who [B, 1]`` is the speaker's column."""
        known = who >= 0
        dialogue = self._cell(0, given[0], past.dialogue)
        column = who.clamp(min=0).unsqueeze(2).expand(-1, -1, self.hidden)
        own = torch.where(known, past.speakers.gather(1, column).squeeze(1), 0.0)
        own = torch.where(known, self._cell(1, given[1], own), 0.0)
        columns = torch.arange(past.speakers.shape[1], device=who.device)
        speakers = torch.where((columns == who).unsqueeze(-1), own.unsqueeze(1), past.speakers)
        return torch.cat([dialogue, own], dim=-1), MemoryState(dialogue, speakers)

    def _cell(self, which: int, given: Tensor, state: Tensor) -> Tensor:
        reset_x, keep_x, new_x = given.chunk(3, dim=-1)
        reset_s, keep_s, new_s = self.states[which](state).chunk(3, dim=-1)
        keep = torch.sigmoid(keep_x + keep_s)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_s) * new_s)
        return (1.0 - keep) * new + keep * state


class Weighing(nn.Module):
    r"""How far each modality of an utterance is trusted, given the other modalities.

    .. math:: h'_m = 2 \, \sigma\big(b_m + \textstyle\sum_{n \text{ present}} W_{mn} h_n\big) \odot h_m

    A gate of 1 leaves a channel as it is; a voice full of noise beside plain words is turned down, per utterance. A
    missing modality adds nothing to the sum, and its own :math:`h'` is 0.
    """

    def __init__(self, modalities: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(modalities * hidden, modalities * hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """Weigh ``hidden [N, M, d]``, whose missing rows are 0; returns the same shape."""
        flat = hidden.flatten(1)
        return (2.0 * torch.sigmoid(self.gate(flat)) * flat).view_as(hidden)


class DynamicEnhancement(nn.Module):
    r"""Gated enhancement of one modality by the dialogue so far.

    .. math::
        g_i &= \sigma(W_g [h_i; s_i] + b_g) \\
        e_i &= \mathrm{LayerNorm}\big(h_i + g_i \odot \mathrm{GELU}(W_e [h_i; s_i] + b_e)\big)

    :math:`h_i` is the utterance in this modality and :math:`s_i` the memory of the dialogue and of its speaker:
    how much is added depends on both, per channel.
    """

    def __init__(self, hidden: int, memory: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden + memory, hidden)
        self.candidate = nn.Linear(hidden + memory, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, memory: Tensor) -> Tensor:
        """Enhance ``hidden [N, d]`` given ``memory [N, k]``; returns ``[N, d]``."""
        both = self.dropout(torch.cat([hidden, memory], dim=-1))
        added = torch.sigmoid(self.gate(both)) * nn.functional.gelu(self.candidate(both))
        enhanced: Tensor = self.norm(hidden + added)
        return enhanced
