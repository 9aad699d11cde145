"""Fine-tunes the text encoder on emotions, and keeps what that changed as a small low-rank difference.

    synctva train-encoder text --data DIR --out FOLDER

First every utterance of DailyDialog that has an emotion, and a part of those that have none, then the dialogues of MELD
with a causal Sync-TVA on top, whose loss reaches the encoder. The second part is done several times in different
orders, and the weights are averaged (a model soup, https://arxiv.org/abs/2203.05482). Only the training splits are
read. EmoryNLP is left out: it was taken from the same television series as MELD, and many of its scenes are in MELD's
other splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from synctva_ros.encoders.adapter import save_adapter
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.events import EMOTIONS
from synctva_ros.network.synctva import SyncTVA, SyncTVAConfig
from synctva_ros.training.data.dialogues import Corpus, IntArray, as_recognised, read_corpus
from synctva_ros.training.tasks.dialogue import collate, prepare

NAME = "feelings-1"
RANK = 96
#: Trainings on MELD whose weights are averaged.
SOUP = 3
#: Share of the neutral utterances of DailyDialog, where five of six are neutral, that is read.
NEUTRAL = 0.2
#: How often a dialogue is read as a speech recogniser would write it.
RECOGNISED = 0.3
UTTERANCES, DIALOGUES = 64, 16  # a step
ENCODER_RATE, HEAD_RATE = 1e-4, 1e-3
WARM_UP = 0.1
AVERAGING = 0.98
SMOOTHING = 0.1
WORDS_ALONE = 0.5  # weight of the loss of each utterance without its dialogue


def train_text_adapter(
    data: Path, out: Path, *, epochs: tuple[int, int] = (2, 4), soup: int = SOUP, seed: int = 0, progress: bool = True
) -> None:
    """Train and write the adapter.

    Args:
        data: folder with ``dailydialog_train.jsonl`` and ``meld_train.jsonl``.
        out: gets the weights.
        epochs: passes over DailyDialog and over MELD.
        soup: how many trainings on MELD are averaged.
        seed: of everything that is drawn.
        progress: show bars.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    encoder = TextEncoder()
    daily, meld = (read_corpus(data, name, "train") for name in ("dailydialog", "meld"))
    original = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    # A word that is not in these corpora must not be left behind by those that are.
    encoder.model.embeddings.requires_grad_(False)
    encoder.model.train()
    _learn_utterances(encoder, daily, epochs[0], rng, progress)
    begun = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    # Summed are the changes, because a third of three times a number may differ from it in its last bit, and what did
    # not change is not written.
    change = {name: torch.zeros_like(tensor) for name, tensor in begun.items()}
    for member in range(soup):
        encoder.model.load_state_dict(begun)
        torch.manual_seed(seed + member)
        _learn_dialogues(encoder, meld, epochs[1], np.random.default_rng([seed, member]), progress)
        for name, tensor in encoder.model.state_dict().items():
            change[name] += tensor - begun[name]
    encoder.model.load_state_dict({name: tensor + change[name] / soup for name, tensor in begun.items()})
    save_adapter(
        encoder.model,
        original,
        out,
        name=NAME,
        base=encoder.base,
        rank=RANK,
        training={
            "made_with": "synctva train-encoder text",
            "data": "DailyDialog and MELD, training splits",
            "licence": "CC BY-NC-SA 4.0: not for commercial use",
            "epochs": list(epochs),
            "averaged": soup,
            "seed": seed,
        },
    )


def _learn_utterances(
    encoder: TextEncoder, corpus: Corpus, epochs: int, rng: np.random.Generator, progress: bool
) -> None:
    """Emotion of single utterances, by a linear layer on the encoder's vector."""
    neutral = EMOTIONS.index("neutral")
    pairs = [
        (text, int(label))
        for dialogue in corpus.dialogues
        for text, label in zip(dialogue.texts, dialogue.labels, strict=True)
        if label != neutral or rng.random() < NEUTRAL
    ]
    labels = torch.tensor([label for _, label in pairs])
    share = torch.bincount(labels, minlength=len(EMOTIONS)).clamp_min(1) / len(labels)
    head = nn.Sequential(nn.LayerNorm(encoder.width), nn.Dropout(0.3), nn.Linear(encoder.width, len(EMOTIONS)))
    steps = epochs * -(-len(pairs) // UTTERANCES)
    learner = _Learner(encoder, head, steps)
    for rows in _bar(_by_length([text for text, _ in pairs], epochs, rng), steps, "DailyDialog", progress):
        with torch.autocast("cpu", torch.bfloat16):
            vectors = encoder.pool([pairs[i][0] for i in rows])
        learner.step(cross_entropy(head(vectors.float()), labels[rows], weight=share.rsqrt()))


def _learn_dialogues(
    encoder: TextEncoder, corpus: Corpus, epochs: int, rng: np.random.Generator, progress: bool
) -> None:
    """Emotion of utterances in their dialogue, by Sync-TVA on the encoder's vectors, and without it."""
    texts = [text for dialogue in corpus.dialogues for text in dialogue.texts]
    prepared = prepare(corpus, encoder.encode(texts), "ta")
    audio = corpus.widths.get("audio", 0)
    network = SyncTVA(SyncTVAConfig((encoder.width, audio, 0), len(EMOTIONS), dropout=0.5))
    vectors = [torch.cat([dialogue.text for dialogue in prepared])]
    vectors += [torch.cat([dialogue.audio[dialogue.mask[:, 1]] for dialogue in prepared])] if audio else []
    for project, rows in zip(network.projection, vectors, strict=True):
        project.fit(rows)  # type: ignore[operator]
    alone = nn.Sequential(nn.LayerNorm(encoder.width), nn.Dropout(0.3), nn.Linear(encoder.width, len(EMOTIONS)))
    steps = epochs * -(-len(prepared) // DIALOGUES)
    learner = _Learner(encoder, nn.ModuleList([network, alone]), steps)
    average = torch.optim.swa_utils.AveragedModel(
        encoder.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGING)
    )
    order = (chosen for _ in range(epochs) for chosen in _split(rng.permutation(len(prepared)), DIALOGUES))
    for chosen in _bar(order, steps, "MELD", progress):
        batch, labels = collate([prepared[i] for i in chosen])
        said = [
            as_recognised(text) if recognised else text
            for i, recognised in zip(chosen, rng.random(len(chosen)) < RECOGNISED, strict=True)
            for text in corpus.dialogues[i].texts
        ]
        text = _pooled(encoder, said)
        output = network(replace(batch, text=text))
        loss = cross_entropy(output.logits, labels, label_smoothing=SMOOTHING)
        loss = loss + WORDS_ALONE * cross_entropy(alone(text), labels, label_smoothing=SMOOTHING)
        learner.step(loss)
        average.update_parameters(encoder.model)
    encoder.model.load_state_dict(average.module.state_dict())


def _pooled(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """Vectors ``[n, width]`` with gradients, computed in batches of similar length."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    parts = []
    with torch.autocast("cpu", torch.bfloat16):
        for first in range(0, len(order), UTTERANCES):
            parts.append(encoder.pool([texts[i] for i in order[first : first + UTTERANCES]]).float())
    return torch.cat(parts)[torch.tensor(order).argsort()]


class _Learner:
    """Optimizer and one-cycle schedule of an encoder and what stands on it."""

    def __init__(self, encoder: TextEncoder, head: nn.Module, steps: int) -> None:
        body = [parameter for parameter in encoder.model.parameters() if parameter.requires_grad]
        self.parameters = [*body, *head.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": body, "lr": ENCODER_RATE, "weight_decay": 0.01},
                {"params": head.parameters(), "lr": HEAD_RATE, "weight_decay": 0.05},
            ]
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, [ENCODER_RATE, HEAD_RATE], total_steps=steps + 1, pct_start=WARM_UP
        )

    def step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()


def _by_length(texts: Sequence[str], epochs: int, rng: np.random.Generator) -> Iterator[Sequence[int]]:
    """Batches of rows of similar length, in random order."""
    for _ in range(epochs):
        # Sorted by length but for some noise, so that the same texts do not meet in every epoch.
        noisy = [len(text) * factor for text, factor in zip(texts, rng.uniform(0.8, 1.25, len(texts)), strict=True)]
        batches = _split(np.argsort(noisy), UTTERANCES)
        for number in rng.permutation(len(batches)):
            yield batches[number]


def _split(rows: IntArray, size: int) -> list[list[int]]:
    return [part.tolist() for part in np.split(rows, range(size, len(rows), size))]


def _bar(batches: Iterator[Sequence[int]], steps: int, title: str, progress: bool) -> Iterator[Sequence[int]]:
    from tqdm import tqdm

    bar: Iterator[Sequence[int]] = tqdm(batches, total=steps, desc=title, unit="step", disable=not progress)
    return bar
