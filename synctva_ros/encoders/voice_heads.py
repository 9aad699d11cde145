"""The networks that recognise an emotion in the states of a recogniser's encoder and what is usual for the person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

#: So many turns of a person count as much as knowing nothing of them.
UNKNOWN = 3.0
#: Of how far a turn's emotion has moved its states: so much is taken away before it counts as usual. All of it would
#: lose half of what knowing the person is worth; none would make an hour of anger the new neutral (docs/results.md).
MOVED = 0.5
# States further away than this (in deviations) are as far as this.
_FAR = 5.0


@dataclass(frozen=True)
class VoiceHeadsConfig:
    """Shape of the networks.

    Attributes:
        classes: emotions.
        members: networks whose answers are averaged.
        width: of what is told of an utterance.
        hidden: channels of each.
        states_dropout: of the states, in training.
        dropout: of the hidden channels, in training.
    """

    classes: int
    members: int
    width: int
    hidden: int = 64
    states_dropout: float = 0.6
    dropout: float = 0.5


class VoiceHead(nn.Module):
    """One hidden layer over the states less what is usual, how well that is known, and of which emotions it was made.

    Mean and deviation of the states, and how far each emotion moves them, are those of the people who were heard.
    """

    mean: Tensor
    deviation: Tensor
    moved: Tensor

    def __init__(self, config: VoiceHeadsConfig) -> None:
        super().__init__()
        self.classes = config.classes
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("deviation", torch.ones(config.width))
        self.register_buffer("moved", torch.zeros(config.classes, config.width))
        self.states_dropout = nn.Dropout(config.states_dropout)
        self.body = nn.Sequential(
            nn.Linear(config.width + 1 + config.classes, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )

    def forward(self, told: Tensor, usual: Tensor, moods: Tensor, turns: Tensor) -> Tensor:
        """Logits ``[n, classes]``; the arguments are those of :class:`VoiceHeads`, ``moods`` for this member alone."""
        known = (turns / (turns + UNKNOWN)).unsqueeze(1)
        expected = self.standard(usual) - MOVED * (moods @ self.moved)
        states = self.states_dropout(self.standard(told) - expected * known)
        logits: Tensor = self.body(torch.cat([states, known, (moods - 1.0 / self.classes) * known], dim=1))
        return logits

    def standard(self, told: Tensor) -> Tensor:
        """What was told ``[n, width]``, in deviations of the training data."""
        return ((told - self.mean) / self.deviation).clamp(-_FAR, _FAR)


class VoiceHeads(nn.Module):
    """Several members, each trained without some of the people."""

    ARCHITECTURE: ClassVar[str] = "voice-states"

    def __init__(self, config: VoiceHeadsConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(VoiceHead(config) for _ in range(config.members))

    def forward(self, told: Tensor, usual: Tensor, moods: Tensor, turns: Tensor) -> Tensor:
        """What each member says ``[members, n, classes]``, as logarithms of probabilities.

        Args:
            told: mean and deviation of the states of each utterance ``[n, width]``.
            usual: mean of what was told of the person's earlier turns ``[n, width]``; anything without turns.
            moods: mean of the probabilities that each member gave to those turns ``[members, n, classes]``.
            turns: how many they were ``[n]``.
        """
        answers = zip(self.members, moods, strict=True)
        return torch.stack([torch.log_softmax(each(told, usual, mood, turns), dim=-1) for each, mood in answers])
