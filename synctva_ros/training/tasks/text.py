"""Fine-tunes the text encoder on emotions, and keeps what that changed as a small low-rank difference.

    synctva train-encoder text --data DIR --out FOLDER

First every utterance of DailyDialog that has an emotion, and a part of those that have none, then the dialogues of MELD
with a causal Sync-TVA on top, whose loss reaches the encoder. The second part is done several times in different
orders, and the weights are averaged (a model soup, https://arxiv.org/abs/2203.05482). Only the training splits are
read, and not all of them: each of the trainings on MELD leaves out the dialogues that are its share, and every fifth
dialogue of DailyDialog is read by none. A network that stands on the encoder needs words that the encoder was not
trained on, or it learns to believe words more than it should. So each training's own adapter is kept beside the
average, and :func:`unread` says which dialogues it is for. EmoryNLP is left out: it was taken from the same
television series as MELD, and many of its scenes are in MELD's other splits.
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
from synctva_ros.training.data.dialogues import Corpus, as_recognised, read_corpus
from synctva_ros.training.data.protocol import IntArray
from synctva_ros.training.loop import Task, fit, forget, half_precision, seeded
from synctva_ros.training.recipe import TextRecipe, as_settings
from synctva_ros.training.tasks.dialogue import collate, erc_folder, prepare

NAME = "feelings-1"
LICENCE = "CC-BY-NC-SA-4.0: not for commercial use"
#: Share of the neutral utterances of DailyDialog, where five of six are neutral, that is read.
NEUTRAL = 0.2
#: Every so manieth dialogue of DailyDialog is not read.
UNREAD_DAILY = 5
#: How often a dialogue is read as a speech recogniser would write it.
RECOGNISED = 0.3
SMOOTHING = 0.1
WORDS_ALONE = 0.5  # weight of the loss of each utterance without its dialogue


class _TextTask(Task):
    """The text encoder and what stands on it, with a learning rate each."""

    def __init__(self, recipe: TextRecipe, encoder: TextEncoder, heads: nn.Module, rng: np.random.Generator) -> None:
        self.recipe, self.encoder, self.heads, self.rng = recipe, encoder, heads, rng
        # A word that is not in these corpora must not be left behind by those that are.
        encoder.model.embeddings.requires_grad_(False)
        self.network = nn.ModuleDict({"encoder": encoder.model, "heads": heads})
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [each for each in encoder.model.parameters() if each.requires_grad],
                    "lr": recipe.encoder_rate,
                    "weight_decay": 0.01,
                },
                {"params": heads.parameters(), "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay},
            ]
        )


class UtteranceTask(_TextTask):
    """Emotion of single utterances, by a linear layer on the encoder's vector."""

    def __init__(self, recipe: TextRecipe, encoder: TextEncoder, corpus: Corpus, rng: np.random.Generator) -> None:
        neutral = EMOTIONS.index("neutral")
        pairs = [
            (text, int(label))
            for dialogue in corpus.dialogues
            for text, label in zip(dialogue.texts, dialogue.labels, strict=True)
            if label != neutral or rng.random() < NEUTRAL
        ]
        self.texts = [text for text, _ in pairs]
        self.labels = torch.tensor([label for _, label in pairs])
        share = torch.bincount(self.labels, minlength=len(EMOTIONS)).clamp_min(1) / len(pairs)
        self.weight = share.rsqrt()
        self.steps = -(-len(pairs) // recipe.utterances)
        super().__init__(recipe, encoder, _head(encoder), rng)

    def batches(self) -> Iterator[Sequence[int]]:
        """Rows of similar length, in random order."""
        # Sorted by length but for some noise, so that the same texts do not meet in every epoch.
        noise = self.rng.uniform(0.8, 1.25, len(self.texts))
        noisy = [len(text) * factor for text, factor in zip(self.texts, noise, strict=True)]
        batches = _split(np.argsort(noisy), self.recipe.utterances)
        for number in self.rng.permutation(len(batches)):
            yield batches[number]

    def loss(self, batch: Sequence[int]) -> Tensor:
        """Cross-entropy, rare classes heavier."""
        with half_precision():
            vectors = self.encoder.pool([self.texts[row] for row in batch])
        return cross_entropy(self.heads(vectors.float()), self.labels[batch], weight=self.weight)


class SpokenTask(_TextTask):
    """Emotion of utterances in their dialogue, by Sync-TVA on the encoder's vectors, and without it."""

    def __init__(self, recipe: TextRecipe, encoder: TextEncoder, corpus: Corpus, rng: np.random.Generator) -> None:
        self.corpus = corpus
        texts = [text for dialogue in corpus.dialogues for text in dialogue.texts]
        self.dialogues = prepare(corpus, encoder.encode(texts), "ta")
        audio = corpus.widths.get("audio", 0)
        network = SyncTVA(SyncTVAConfig((encoder.width, audio, 0), len(EMOTIONS), dropout=0.5))
        vectors = [torch.cat([dialogue.text for dialogue in self.dialogues])]
        vectors += [torch.cat([dialogue.audio[dialogue.mask[:, 1]] for dialogue in self.dialogues])] if audio else []
        for project, rows in zip(network.projection, vectors, strict=True):
            project.fit(rows)  # type: ignore[operator]
        self.steps = -(-len(self.dialogues) // recipe.batch)
        super().__init__(recipe, encoder, nn.ModuleDict({"network": network, "alone": _head(encoder)}), rng)

    def batches(self) -> Iterator[Sequence[int]]:
        """Numbers of dialogues, in random order."""
        yield from _split(self.rng.permutation(len(self.dialogues)), self.recipe.batch)

    def loss(self, batch: Sequence[int]) -> Tensor:
        """Cross-entropy of the network, and of the words alone."""
        dialogues, labels = collate([self.dialogues[row] for row in batch])
        said = [
            as_recognised(text) if recognised else text
            for row, recognised in zip(batch, self.rng.random(len(batch)) < RECOGNISED, strict=True)
            for text in self.corpus.dialogues[row].texts
        ]
        text = self._pooled(said)
        output = self.heads["network"](replace(dialogues, text=text))  # type: ignore[index]
        alone = cross_entropy(self.heads["alone"](text), labels, label_smoothing=SMOOTHING)  # type: ignore[index]
        return cross_entropy(output.logits, labels, label_smoothing=SMOOTHING) + WORDS_ALONE * alone

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        """Vectors ``[n, width]`` with gradients, computed in batches of similar length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        size = self.recipe.utterances
        with half_precision():
            parts = [
                self.encoder.pool([texts[i] for i in order[first : first + size]]).float()
                for first in range(0, len(order), size)
            ]
        return torch.cat(parts)[torch.tensor(order).argsort()]


def train_text_adapter(data: Path, out: Path, recipe: TextRecipe, *, seed: int = 0, progress: bool = True) -> None:
    """Train and write the adapter.

    Args:
        data: folder with ``dailydialog_train.jsonl`` and ``meld_train.jsonl``, or one that has it as ``erc``.
        out: gets the weights, and a folder with the log of each part of the training; that of a part on MELD also has
            its own adapter, for the dialogues that it did not read.
        recipe: of the training.
        seed: of everything that is drawn.
        progress: show bars.
    """
    daily, meld = (read_corpus(erc_folder(data), name, "train") for name in ("dailydialog", "meld"))
    read = replace(daily, dialogues=tuple(d for n, d in enumerate(daily.dialogues) if n % UNREAD_DAILY))
    encoder = TextEncoder()
    original = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    about = {
        "made_with": "synctva train-encoder text",
        "data": "DailyDialog and MELD, training splits",
        "licence": LICENCE,
        **as_settings(recipe),
        "seed": seed,
    }

    def keep(folder: Path, name: str) -> None:
        save_adapter(encoder.model, original, folder, name=name, base=encoder.base, rank=recipe.rank, training=about)

    schedule = replace(recipe, epochs=recipe.utterance_epochs, averaging=0.0)
    parts = [out / "dailydialog"]
    fit(
        UtteranceTask(recipe, encoder, read, seeded(seed)),
        schedule,
        parts[0],
        "DailyDialog",
        made_of={"seed": seed},
        progress=progress,
    )
    begun = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    # Summed are the changes, because a third of three times a number may differ from it in its last bit, and what did
    # not change is not written.
    change = {name: torch.zeros_like(tensor) for name, tensor in begun.items()}
    for member in range(recipe.soup):
        encoder.model.load_state_dict(begun)
        torch.manual_seed(seed + member)
        mine = meld
        if recipe.soup > 1:
            away = unread(meld, member, recipe.soup).dialogues
            mine = replace(meld, dialogues=tuple(d for d in meld.dialogues if d not in away))
        task = SpokenTask(recipe, encoder, mine, np.random.default_rng([seed, member]))
        parts.append(out / f"meld-{member + 1}")
        title = f"MELD {member + 1} of {recipe.soup}"
        fit(task, recipe, parts[-1], title, made_of={"seed": seed}, progress=progress)
        for name, tensor in encoder.model.state_dict().items():
            change[name] += tensor - begun[name]
        if recipe.soup > 1:
            keep(parts[-1], f"{NAME}/{member + 1}")
    encoder.model.load_state_dict({name: tensor + change[name] / recipe.soup for name, tensor in begun.items()})
    keep(out, NAME)
    for part in parts:
        forget(part)


def unread(meld: Corpus, member: int, members: int) -> Corpus:
    """The dialogues of MELD's training split that one of the trainings, counted from 0, does not read."""
    return replace(meld, dialogues=meld.dialogues[member::members])


def _head(encoder: TextEncoder) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(encoder.width), nn.Dropout(0.3), nn.Linear(encoder.width, len(EMOTIONS)))


def _split(rows: IntArray, size: int) -> list[list[int]]:
    return [part.tolist() for part in np.split(rows, range(size, len(rows), size))]
