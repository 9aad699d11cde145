"""The Sync-TVA network: what a person feels, from words, voice and face of an utterance and the dialogue around it.

Source: Zeyu Deng, Yanhui Lu, Jiashu Liao, Shuang Wu, Chongfeng Wei, "Sync-TVA: A Graph-Attention Framework for
Multimodal Emotion Recognition with Cross-Modal Fusion", https://arxiv.org/abs/2507.21395. The three stages and the
three graphs are the paper's; we had its abstract, not its equations, so every formula, the causal mode, missing
modalities, the memory and the shares are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from synctva_ros.events import MODALITIES

from .enhancement import DialogueMemory, DynamicEnhancement, Layout, MemoryState, Projection, Weighing
from .fusion import CrossAttentionFusion
from .graphs import CrossModalGraph, connect_turns

#: The graphs, as the indices of their two modalities.
GRAPHS = {"text_audio": (0, 1), "text_vision": (0, 2), "audio_vision": (1, 2)}
#: What ``SyncTVAConfig.without`` can leave out.
PARTS = ("enhancement", "memory", *GRAPHS, "cross_attention")


@dataclass(frozen=True)
class SyncTVAConfig:
    """What the network is made of.

    Attributes:
        widths: length of the text, audio and vision vectors; 0: the network has no such modality.
        classes: number of emotions C.
        hidden: width d inside the network.
        heads: attention heads; divides ``hidden``.
        layers: rounds of graph attention.
        window: turns back that an utterance is connected to.
        context: ``"causal"``: an utterance sees itself and earlier turns; ``"full"``: later ones too (offline only).
        dropout: probability of dropping a channel or an edge in training.
        without: parts that are left out, of ``PARTS``; for ablations. Without the enhancement there is no memory.
    """

    widths: tuple[int, int, int]
    classes: int = 7
    hidden: int = 128
    heads: int = 4
    layers: int = 1
    window: int = 10
    context: Literal["causal", "full"] = "causal"
    dropout: float = 0.4
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            ValueError: a setting is out of its range.
        """
        if len(self.widths) != len(MODALITIES) or min(self.widths) < 0 or not any(self.widths):
            raise ValueError(
                f"widths must be three numbers (text, audio, vision), 0 for none, not all of them 0; got {self.widths}"
            )
        for name in ("classes", "hidden", "heads", "layers", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.hidden % self.heads or self.hidden % 2:
            raise ValueError(f"hidden ({self.hidden}) must be even and a multiple of heads ({self.heads})")
        if self.context not in ("causal", "full"):
            raise ValueError(f"context must be 'causal' or 'full', not {self.context!r}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "without", tuple(self.without))
        for part in self.without:
            if part not in PARTS:
                raise ValueError(f"there is no part {part!r} to leave out: name some of {', '.join(PARTS)}")

    @property
    def modalities(self) -> tuple[int, ...]:
        """Indices into ``MODALITIES`` of those that the network has."""
        return tuple(m for m, width in enumerate(self.widths) if width)

    @property
    def graphs(self) -> tuple[tuple[int, int], ...]:
        """The graphs whose two modalities the network has, but for those left out."""
        return tuple(
            pair for name, pair in GRAPHS.items() if name not in self.without and all(self.widths[m] for m in pair)
        )

    @property
    def reach(self) -> int:
        """How many earlier turns reach an utterance through the graphs; the memory reaches back without an end."""
        return self.window * self.layers


@dataclass(frozen=True)
class DialogueBatch:
    """N utterances of one or more dialogues; the rows of a dialogue follow each other in the order of its turns.

    Attributes:
        text: text vectors ``[N, widths[0]]``; also of width 0 where the network has none.
        audio: audio vectors ``[N, widths[1]]``.
        vision: vision vectors ``[N, widths[2]]``.
        mask: bool ``[N, 3]``: which modalities are there, at least one a row. What a row holds where the mask is False
            is never read and may be NaN.
        start: start of speech ``[N]`` in seconds, on any clock shared by a dialogue.
        end: end of speech ``[N]`` in seconds.
        speaker: index of the speaker within the dialogue ``[N]``; -1 when unknown.
        dialogue: index of the dialogue ``[N]``, never falling from row to row.
    """

    text: Tensor
    audio: Tensor
    vision: Tensor
    mask: Tensor
    start: Tensor
    end: Tensor
    speaker: Tensor
    dialogue: Tensor

    def __len__(self) -> int:
        """Number of utterances N."""
        return len(self.mask)

    def to(self, device: torch.device | str) -> DialogueBatch:
        """The same batch on another device."""
        return DialogueBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass(frozen=True)
class SyncTVAOutput:
    """What the network says of N utterances.

    Attributes:
        logits: ``[N, C]``, before the temperature; see :meth:`SyncTVA.probabilities`.
        votes: the logits of text, audio and vision alone ``[N, 3, C]``; not to be read where the mask is False.
        shares: how much each vote counts ``[N, 3]``: sums to 1, 0 for a missing modality.
        memory: what is remembered at the end of each dialogue, to go on from there; None without a memory.
    """

    logits: Tensor
    votes: Tensor
    shares: Tensor
    memory: MemoryState | None


class SyncTVA(nn.Module):
    """Enhancement per modality, three cross-modal graphs, cross-attention fusion; see the module's source note.

    A missing modality takes no part: nothing of it is remembered, its edges have weight 0, it gets no attention and no
    share. Its row is carried along so that row i is utterance i everywhere, but nothing reads it.

    Attributes:
        config: what the network is made of.
        temperature: per modality the divisor of the logits that makes the probabilities honest.
    """

    ARCHITECTURE: ClassVar[str] = "sync-tva"

    def __init__(self, config: SyncTVAConfig) -> None:
        super().__init__()
        self.config = config
        self.temperature = (1.0, 1.0, 1.0)
        hidden, heads, dropout = config.hidden, config.heads, config.dropout
        modalities = config.modalities
        self.projection = nn.ModuleList(Projection(config.widths[m], hidden) for m in modalities)
        enhanced, remembered = "enhancement" not in config.without, "memory" not in config.without
        # One memory of what was, and with full context another of what will be.
        ways = (2 if config.context == "full" else 1) if enhanced and remembered else 0
        self.weighing = Weighing(len(modalities), hidden) if enhanced else None
        self.memory = nn.ModuleList(DialogueMemory(len(modalities) * hidden, hidden) for _ in range(ways))
        self.enhancement = nn.ModuleList(
            DynamicEnhancement(hidden, 2 * hidden * ways, dropout) for _ in modalities if enhanced
        )
        self.graphs = nn.ModuleList(CrossModalGraph(hidden, heads, config.layers, dropout) for _ in config.graphs)
        self.fusion = CrossAttentionFusion(
            hidden, heads, config.classes, len(modalities), dropout, attend="cross_attention" not in config.without
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: DialogueBatch, past: MemoryState | None = None) -> SyncTVAOutput:
        """Classify each utterance of the batch.

        Args:
            batch: the utterances.
            past: what is remembered of the turns before the batch, for each of its dialogues; None: nothing.

        Raises:
            ValueError: a vector has the wrong width or holds NaN, a row has no modality, the rows of a dialogue are
                apart, or ``past`` is of another number of dialogues.
        """
        self._check(batch)
        turns = connect_turns(
            batch.start, batch.end, batch.speaker, batch.dialogue, self.config.window, self.config.context == "full"
        )
        return self.stages(
            (batch.text, batch.audio, batch.vision),
            batch.mask,
            lambda inputs: self._remember(inputs, batch, past),
            lambda number, nodes, mask: self.graphs[number](nodes, mask, turns),
        )

    def stages(
        self,
        vectors: tuple[Tensor, Tensor, Tensor],
        mask: Tensor,
        remember: Callable[[Tensor], tuple[Tensor, MemoryState | None]],
        connect: Callable[[int, list[Tensor], Tensor], list[Tensor]],
    ) -> SyncTVAOutput:
        """The three stages of N utterances, whichever way memory and graphs walk along their dialogues.

        Args:
            vectors: of text, audio and vision, as in :class:`DialogueBatch`.
            mask: which of them are there, bool ``[N, 3]``.
            remember: from what the memory takes in ``[N, M d]`` to what it says of each utterance ``[N, k]``, and what
                is left at the end.
            connect: from the number of a graph, its two modalities' vectors ``[N, d]`` and mask ``[N, 2]`` to their new
                vectors.
        """
        modalities = self.config.modalities
        own = _columns(mask, modalities)
        given = [vectors[m] for m in modalities]
        # Stage 1, modality-specific dynamic enhancement.
        hidden = torch.stack(
            [
                project(torch.where(there.unsqueeze(1), vector, 0.0)).masked_fill(~there.unsqueeze(1), 0.0)
                for project, vector, there in zip(self.projection, given, own.t(), strict=True)
            ],
            dim=1,
        )
        memory = None
        nodes = list(hidden.unbind(dim=1))
        if self.weighing is not None:
            hidden = self.weighing(hidden)
            remembered, memory = remember(self.dropout(hidden.flatten(1)))
            nodes = [enhance(hidden[:, k], remembered) for k, enhance in enumerate(self.enhancement)]

        # Stage 2, the cross-modal graphs: a modality has one view from each graph it is in.
        views: dict[int, list[Tensor]] = {m: [] for m in modalities}
        for number, pair in enumerate(self.config.graphs):
            seen = connect(number, [nodes[modalities.index(m)] for m in pair], _columns(mask, pair))
            for m, view in zip(pair, seen, strict=True):
                views[m].append(view)

        # Stage 3, cross-attention fusion.
        votes, shares = self.fusion([views[m] or [node] for m, node in zip(modalities, nodes, strict=True)], own)
        logits = (shares.unsqueeze(-1) * votes).sum(dim=1)
        return SyncTVAOutput(logits, _among_all(votes, modalities), _among_all(shares, modalities), memory)

    def probabilities(self, output: SyncTVAOutput) -> Tensor:
        r"""Calibrated probabilities ``[N, C]``.

        .. math:: p = \mathrm{softmax}\big(\text{logits} \,/\, \textstyle\sum_m a_m T_m\big)

        Temperature scaling (https://arxiv.org/abs/1706.04599) with one temperature :math:`T_m` per modality, weighed
        with the shares :math:`a_m`, because words, voices and faces are over- and underrated differently (ours).
        """
        # Numbers, not a tensor made of them, which would have to be copied to a GPU each time.
        temperature = sum(share * t for share, t in zip(output.shares.split(1, dim=-1), self.temperature, strict=True))
        return torch.softmax(output.logits / temperature, dim=-1)

    def _remember(
        self, inputs: Tensor, batch: DialogueBatch, past: MemoryState | None
    ) -> tuple[Tensor, MemoryState | None]:
        """Walk along the dialogues, with full context also from their end: ``[N, 2 d]`` for each way."""
        states: list[Tensor] = [inputs[:, :0]]
        memory = None
        layout = Layout.of(batch.dialogue, batch.speaker)
        for way, remember in enumerate(self.memory):
            state, left = remember(inputs, layout.backwards() if way else layout, None if way else past)
            states.append(state)
            memory = memory if way else left
        return torch.cat(states, dim=-1), memory

    def _check(self, batch: DialogueBatch) -> None:
        widths = (batch.text.shape[-1], batch.audio.shape[-1], batch.vision.shape[-1])
        if widths != self.config.widths:
            raise ValueError(
                f"vectors of width {widths} (text, audio, vision) given to a network built for {self.config.widths}"
            )
        if not len(batch):
            raise ValueError("the batch has no utterances: leave empty dialogues out")
        lonely = (~batch.mask[:, list(self.config.modalities)].any(dim=1)).nonzero()
        if len(lonely):
            raise ValueError(f"utterance in row {int(lonely[0])} has no modality: leave such utterances out of a batch")
        if bool((batch.dialogue[1:] < batch.dialogue[:-1]).any()):
            raise ValueError("the dialogue index falls from one row to the next: put each dialogue's rows together")
        for name, vectors, there in zip(
            MODALITIES, (batch.text, batch.audio, batch.vision), batch.mask.t(), strict=True
        ):
            broken = (there & ~torch.isfinite(vectors).all(dim=1)).nonzero()
            if len(broken):
                raise ValueError(
                    f"the {name} vector in row {int(broken[0])} holds NaN or infinity: mask it out or mend its encoder"
                )


def _columns(tensor: Tensor, columns: Sequence[int]) -> Tensor:
    """Some columns of ``[N, n]``, without a list of indices that would have to be copied to a GPU."""
    return torch.stack([tensor[:, column] for column in columns], dim=1)


def _among_all(of_modalities: Tensor, modalities: Sequence[int]) -> Tensor:
    """From ``[N, M, ...]`` to ``[N, 3, ...]``, with zeros for the modalities that the network does not have."""
    if len(modalities) == len(MODALITIES):
        return of_modalities
    blank = torch.zeros_like(of_modalities[:, 0])
    return torch.stack(
        [of_modalities[:, modalities.index(m)] if m in modalities else blank for m in range(len(MODALITIES))], dim=1
    )
