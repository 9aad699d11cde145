"""Two plain networks that Sync-TVA is compared with; trained and evaluated by the same commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from synctva_ros.events import MODALITIES
from synctva_ros.network.enhancement import Layout, Projection
from synctva_ros.network.synctva import DialogueBatch


@dataclass(frozen=True)
class ReferenceConfig:
    """What a reference is made of; as in ``SyncTVAConfig``.

    Attributes:
        widths: length of the text, audio and vision vectors; 0: none.
        classes: number of emotions C.
        hidden: width d inside the network.
        layers: recurrent layers.
        context: "causal" for one direction, "full" for both.
        dropout: probability of dropping a channel in training.
    """

    widths: tuple[int, int, int]
    classes: int
    hidden: int = 128
    layers: int = 2
    context: Literal["causal", "full"] = "full"
    dropout: float = 0.4

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        object.__setattr__(self, "widths", tuple(self.widths))
        if len(self.widths) != len(MODALITIES) or min(self.widths) < 0 or not any(self.widths):
            raise ValueError(f"widths must be three numbers (text, audio, vision), not all 0; got {self.widths}")
        if self.context not in ("causal", "full"):
            raise ValueError(f"context must be 'causal' or 'full', not {self.context!r}")


@dataclass(frozen=True)
class ReferenceOutput:
    """Logits ``[N, C]`` before the temperature."""

    logits: Tensor


class _Reference(nn.Module):
    """What both share: one temperature for all, and missing modalities as zeros behind their projection."""

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__()
        self.config = config
        self.temperature = (1.0, 1.0, 1.0)
        self.modalities = [m for m, width in enumerate(config.widths) if width]
        self.projection = nn.ModuleList(Projection(config.widths[m], config.hidden) for m in self.modalities)

    def project(self, batch: DialogueBatch) -> Tensor:
        """Projected vectors ``[N, M, d]`` of the modalities that the network has."""
        vectors = (batch.text, batch.audio, batch.vision)
        rows = []
        for project, m in zip(self.projection, self.modalities, strict=True):
            there = batch.mask[:, m : m + 1]
            rows.append(project(torch.where(there, vectors[m], 0.0)).masked_fill(~there, 0.0))
        return torch.stack(rows, dim=1)

    def probabilities(self, output: ReferenceOutput) -> Tensor:
        """Calibrated probabilities ``[N, C]``."""
        return torch.softmax(output.logits / self.temperature[0], dim=-1)


class RecurrentReference(_Reference):
    """A recurrent network (GRU) over the joined vectors of the modalities, in both directions with full context."""

    ARCHITECTURE: ClassVar[str] = "gru"

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__(config)
        both = config.context == "full"
        self.recurrent = nn.GRU(
            len(self.modalities) * config.hidden,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=both,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden * (2 if both else 1), config.classes)

    def forward(self, batch: DialogueBatch) -> ReferenceOutput:
        """Classify each utterance of the batch."""
        inputs = self.dropout(self.project(batch).flatten(1))
        layout = Layout.of(batch.dialogue, batch.speaker)
        dialogues = inputs.split(layout.length.tolist())
        packed = nn.utils.rnn.pack_sequence(dialogues, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        return ReferenceOutput(self.classifier(self.dropout(padded[layout.dialogue, layout.turn])))


class LateFusionReference(_Reference):
    """One perceptron for each modality of an utterance; the logits of those present are averaged. No dialogue."""

    ARCHITECTURE: ClassVar[str] = "mlp"

    def __init__(self, config: ReferenceConfig) -> None:
        super().__init__(config)
        self.classifier = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.classes),
            )
            for _ in self.modalities
        )

    def forward(self, batch: DialogueBatch) -> ReferenceOutput:
        """Classify each utterance of the batch."""
        hidden = self.project(batch)
        votes = torch.stack([classify(hidden[:, k]) for k, classify in enumerate(self.classifier)], dim=1)
        there = batch.mask[:, self.modalities].unsqueeze(-1).to(votes.dtype)
        return ReferenceOutput((votes * there).sum(dim=1) / there.sum(dim=1).clamp_min(1.0))
