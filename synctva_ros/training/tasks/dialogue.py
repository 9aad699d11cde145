"""Trains a network on a corpus in the layout of ``docs/corpora.md``: a corpus in, a run folder out.

A run folder holds ``run.json`` (what was trained, see :class:`Run`) and for each seed a folder ``seed-N``::

    model.safetensors, model.json   the weights of the best epoch, as synctva_ros.network.weights writes them
    log.csv, tensorboard            losses, scores and seconds of each epoch
    metrics.json                    scores of the chosen epoch on the validation split
    checkpoint.safetensors          only while the seed is not finished
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from synctva_ros.evaluation.metrics import Scores, fit_temperature, score
from synctva_ros.events import MODALITIES, FloatArray
from synctva_ros.network.synctva import DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, load, save
from synctva_ros.training.checkpoint import CHECKPOINT
from synctva_ros.training.data.dialogues import VECTORS, Corpus, Dialogue, read_corpus
from synctva_ros.training.data.overlap import dialogues_without_overlap
from synctva_ros.training.data.text_vectors import encode_texts
from synctva_ros.training.loop import Task, fit, forget, seeded, side_by_side
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks.references import LateFusionReference, RecurrentReference, ReferenceConfig
from synctva_ros.weights.files import TENSORS

FORMAT_VERSION = 2
DESCRIPTION = "run.json"
ARCHITECTURES: dict[str, tuple[type[nn.Module], type]] = {
    SyncTVA.ARCHITECTURE: (SyncTVA, SyncTVAConfig),
    RecurrentReference.ARCHITECTURE: (RecurrentReference, ReferenceConfig),
    LateFusionReference.ARCHITECTURE: (LateFusionReference, ReferenceConfig),
}
#: A corpus without times gets these: seconds before the first word, for each word, and between utterances.
ONSET, PER_WORD, PAUSE = 0.2, 0.3, 0.5

Context = Literal["causal", "full"]


class RunError(ValueError):
    """A run folder cannot be used; the message says which part of it and what to do."""


@dataclass(frozen=True)
class Run:
    """What a run folder says of itself.

    Attributes:
        corpus: name of the corpus.
        labels: its classes, in the order of the outputs.
        context: what an utterance sees of its dialogue.
        modalities: letters of those that were trained on, of "tav".
        encoders: per modality the name of the encoder; "none" where there are no vectors, "unnamed" where the corpus
            does not say.
        widths: length of the vectors; 0 for a modality that is not used.
        recipe: everything else.
    """

    corpus: str
    labels: tuple[str, ...]
    context: Context
    modalities: str
    encoders: dict[str, str]
    widths: tuple[int, int, int]
    recipe: Recipe

    def write(self, folder: Path) -> None:
        """Write ``run.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read ``run.json``.

        Raises:
            RunError: it is not there, of another version, or not as it should be.
        """
        path = folder / DESCRIPTION
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
            version = written.pop("format_version", None)
        except FileNotFoundError as error:
            raise RunError(f"{path} is missing: give a folder that synctva train wrote") from error
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}): train again") from error
        if version != FORMAT_VERSION:
            raise RunError(
                f"{path} has format version {version!r}, this program reads {FORMAT_VERSION}: train again, or use the "
                "program that wrote it"
            )
        try:
            written["recipe"] = Recipe(**written["recipe"])
            for name in ("labels", "widths"):
                written[name] = tuple(written[name])
            return cls(**written)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} cannot be used ({error}): train again") from error

    def seeds(self, folder: Path) -> list[int]:
        """The seeds whose training is finished.

        Raises:
            RunError: there is none.
        """
        numbers = (path.name.removeprefix("seed-") for path in folder.glob("seed-*") if _finished(path))
        done = sorted(int(number) for number in numbers if number.isdecimal())
        if not done:
            raise RunError(f"{folder} holds no finished seed: let synctva train come to its end")
        return done


def _finished(folder: Path) -> bool:
    """Whether the training of a seed came to its end; its checkpoint is deleted when all else is written."""
    return (folder / TENSORS).is_file() and not (folder / CHECKPOINT).is_file()


@dataclass(frozen=True)
class Prepared:
    """One dialogue as tensors: the fields of ``DialogueBatch`` but for ``dialogue``, and labels ``[n]``."""

    text: Tensor
    audio: Tensor
    vision: Tensor
    mask: Tensor
    start: Tensor
    end: Tensor
    speaker: Tensor
    labels: Tensor


def prepare(
    corpus: Corpus, text: FloatArray, modalities: str, widths: tuple[int, int, int] | None = None
) -> list[Prepared]:
    """Dialogues as tensors.

    Args:
        corpus: of ``n`` utterances in all.
        text: their text vectors ``[n, width]``, in the corpus's order.
        modalities: letters of those to use, of "tav".
        widths: length of the vectors of those that are not used, for a network that has them; None: 0.

    Raises:
        ValueError: an utterance has none of the modalities.
    """
    prepared, first = [], 0
    for dialogue in corpus.dialogues:
        count = len(dialogue.texts)
        given = {"text": text[first : first + count], "audio": dialogue.audio, "vision": dialogue.vision}
        first += count
        vectors, masks = [], []
        for letter, name, width in zip("tav", MODALITIES, widths or (0, 0, 0), strict=True):
            rows = given[name] if letter in modalities else None
            rows = np.full((count, width), np.nan, np.float32) if rows is None else rows
            masks.append(np.isfinite(rows).all(axis=1) & (rows.shape[1] > 0))
            vectors.append(torch.from_numpy(np.ascontiguousarray(rows)))
        mask = torch.from_numpy(np.stack(masks, axis=1))
        if lonely := (~mask.any(dim=1)).nonzero().flatten().tolist():
            raise ValueError(
                f"{corpus.name} {corpus.split}: utterance {lonely[0] + 1} of dialogue {dialogue.id!r} has none of the "
                f"modalities {modalities!r}: add one that it has"
            )
        start, end = _times(dialogue)
        names = {name: number for number, name in enumerate(dict.fromkeys(dialogue.speakers))}
        speaker = torch.tensor([names[name] if name else -1 for name in dialogue.speakers])
        labels = torch.from_numpy(dialogue.labels)
        prepared.append(Prepared(vectors[0], vectors[1], vectors[2], mask, start, end, speaker, labels))
    return prepared


def _times(dialogue: Dialogue) -> tuple[Tensor, Tensor]:
    if dialogue.times is not None:
        return torch.from_numpy(dialogue.times[:, 0].copy()), torch.from_numpy(dialogue.times[:, 1].copy())
    duration = torch.tensor([ONSET + PER_WORD * len(text.split()) for text in dialogue.texts])
    end = (duration + PAUSE).cumsum(0) - PAUSE
    return end - duration, end


def collate(dialogues: Sequence[Prepared]) -> tuple[DialogueBatch, Tensor]:
    """Dialogues as one batch, and their labels ``[N]``."""
    names = ("text", "audio", "vision", "mask", "start", "end", "speaker")
    number = torch.arange(len(dialogues))
    index = number.repeat_interleave(torch.tensor([len(dialogue.labels) for dialogue in dialogues]))
    parts = {name: torch.cat([getattr(dialogue, name) for dialogue in dialogues]) for name in names}
    return DialogueBatch(**parts, dialogue=index), torch.cat([dialogue.labels for dialogue in dialogues])


class Loss:
    r"""The loss of a recipe, for classes of very different frequency :math:`\pi_c`.

    .. math:: \ell = -w_y (1 - p_y)^\gamma \log p_y, \qquad p = \mathrm{softmax}(\text{logits} + \tau \log \pi)

    with :math:`w_c \propto \pi_c^{-k}`, label smoothing, :math:`\gamma` of the focal loss, :math:`\tau` of the logit
    adjustment and :math:`k` of the class weights from the recipe. To this comes the same loss of each present
    modality's own vote, weighed with ``vote_loss``.
    """

    def __init__(self, recipe: Recipe, labels: Tensor, classes: int) -> None:
        self.recipe = recipe
        share = torch.bincount(labels, minlength=classes).clamp_min(1) / len(labels)
        weight = share**-recipe.class_weight
        self.weight = weight / (weight * share).sum()
        self.shift = recipe.logit_adjustment * share.log()

    def __call__(self, output: Any, batch: DialogueBatch, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        total = self._of(output.logits, labels)
        if self.recipe.vote_loss and hasattr(output, "votes"):
            for m in range(len(MODALITIES)):
                if bool((there := batch.mask[:, m]).any()):
                    total = total + self.recipe.vote_loss * self._of(output.votes[there, m], labels[there])
        return total

    def _of(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits + self.shift.to(logits)
        weight = self.weight.to(logits)
        each = cross_entropy(
            logits, labels, weight=weight, label_smoothing=self.recipe.label_smoothing, reduction="none"
        )
        if self.recipe.focal:
            own = log_softmax(logits, dim=-1).gather(1, labels.unsqueeze(1)).squeeze(1).exp()
            each = (1.0 - own) ** self.recipe.focal * each
        return each.sum() / weight[labels].sum()


def build(run: Run) -> nn.Module:
    """The untrained network of a run."""
    recipe = run.recipe
    if recipe.model == "sync-tva":
        return SyncTVA(
            SyncTVAConfig(
                widths=run.widths,
                classes=len(run.labels),
                hidden=recipe.hidden,
                heads=recipe.heads,
                layers=recipe.layers,
                window=recipe.window,
                context=run.context,
                dropout=recipe.dropout,
                without=recipe.parts_left_out,
            )
        )
    config = ReferenceConfig(run.widths, len(run.labels), recipe.hidden, recipe.layers, run.context, recipe.dropout)
    return RecurrentReference(config) if recipe.model == "gru" else LateFusionReference(config)


def train(
    data: Path,
    corpus: str,
    out: Path,
    recipe: Recipe,
    *,
    context: Context = "causal",
    modalities: str = "tav",
    seeds: Sequence[int] = (1,),
    cache: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> Run:
    """Train one network for each seed; what is finished in ``out`` is kept, what is unfinished goes on.

    Dialogues of which the validation split holds lines are left out, and that is reported. The epoch is the one with
    the best weighted F1 on the validation split, averaged with the two before it; the
    temperature is fitted on that split too.

    Args:
        data: folder with ``NAME_train.jsonl`` and ``NAME_valid.jsonl``.
        corpus: name of the corpus.
        out: the run folder.
        recipe: network, loss and schedule.
        context: "full" lets an utterance see later turns.
        modalities: letters of those to use, of "tav"; those that the corpus has no vectors of are left out.
        seeds: one network each.
        cache: where text vectors are kept; None for the user's cache folder.
        device: "auto" for an accelerator where there is one.
        workers: how many seeds are trained side by side.
        progress: show bars.
        report: gets what there is to say, a line for each finished seed among it.

    Raises:
        CorpusError: the corpus cannot be used.
        RunError: ``out`` holds another run, or the training failed.
        ValueError: no such modality, the corpus has none of those, or its splits do not fit each other; an utterance
            has no modality; there is no such device; or the network cannot be built.
    """
    device = _device(device)
    splits = [read_corpus(erc_folder(data), corpus, split) for split in ("train", "valid")]
    splits[0] = dialogues_without_overlap(splits[0], splits[1], report)
    first = splits[0]
    used = usable(first, modalities)
    for name in VECTORS:
        made = [
            f"width {split.widths[name]} of {split.encoders.get(name) or 'unnamed'!r}"
            if name in split.widths
            else "none"
            for split in splits
        ]
        if name[0] in modalities and made[0] != made[1]:
            raise ValueError(
                f"{corpus}: the {name} vectors are {made[0]} in the training split and {made[1]} in the validation "
                "split: extract both with the same encoder"
            )
    texts, name, width = (
        encode_texts(splits, recipe, cache, progress)
        if "t" in used
        else ([np.zeros((len(s), 0), np.float32) for s in splits], "none", 0)
    )
    run = Run(
        corpus=corpus,
        labels=first.labels,
        context=context,
        modalities=used,
        encoders={"text": name}
        | {m: (first.encoders.get(m) or "unnamed") if m[0] in used else "none" for m in ("audio", "vision")},
        widths=(
            width,
            first.widths.get("audio", 0) if "a" in used else 0,
            first.widths.get("vision", 0) if "v" in used else 0,
        ),
        recipe=recipe,
    )
    if (out / DESCRIPTION).is_file() and (there := Run.read(out)) != run:
        changed = [field.name for field in fields(run) if getattr(run, field.name) != getattr(there, field.name)]
        raise RunError(f"{out} holds another run ({', '.join(changed)} differ): give another folder, or delete it")
    for split, text in zip(splits, texts, strict=True):
        prepare(split, text, used)
    build(run)  # what cannot be built shall leave no run folder behind
    run.write(out)
    on_robot = why_not_on_a_robot(run)
    report(f"not for a robot: {on_robot}" if on_robot else "a robot can use these weights")
    for seed in seeds:
        if _finished(out / f"seed-{seed}"):
            report(f"seed {seed}: finished before, kept")
    wanted = [seed for seed in seeds if not _finished(out / f"seed-{seed}")]
    bars = progress and min(workers, len(wanted)) <= 1  # those of several processes would write over each other
    jobs = [(run, splits, texts, out / f"seed-{seed}", seed, device, bars) for seed in wanted]
    for seed, scores in zip(wanted, side_by_side(train_seed, jobs, workers), strict=True):
        report(
            f"seed {seed} ({list(seeds).index(seed) + 1} of {len(seeds)}): validation weighted F1 "
            f"{scores.weighted_f1:.3f}, macro F1 {scores.macro_f1:.3f}, calibration error {scores.ece:.3f}"
        )
    if on_robot:
        report(f"not for a robot: {on_robot}")
    return run


def why_not_on_a_robot(run: Run) -> str:
    """Why the emotion node would refuse the weights of a run, and what to do; empty when it would not."""
    if run.recipe.model != "sync-tva":
        return f"it is the reference {run.recipe.model!r}; train with model: sync-tva"
    if run.context != "causal":
        return "it sees later turns; train with --context causal"
    unknown = [name for name, encoder in run.encoders.items() if encoder == "unnamed"]
    if unknown:
        return (
            f"its {' and '.join(unknown)} vectors are of an encoder that is not named; take vectors that synctva "
            "extract made, or leave them out with --modalities"
        )
    if "/" in run.encoders["text"]:
        return "its text vectors are a part of the encoder's; train with text_vector: layers"
    return ""


def erc_folder(data: Path) -> Path:
    """Where the dialogues are: in ``erc`` if there is one, beside voices and faces, else in the folder itself."""
    return data / "erc" if (data / "erc").is_dir() else data


def usable(corpus: Corpus, modalities: str) -> str:
    """Letters of those modalities that the corpus has, in the order "tav".

    Raises:
        ValueError: there is no such modality, or the corpus has none of those.
    """
    if not modalities or set(modalities) - set("tav"):
        raise ValueError(f"modalities are {modalities!r}: give some of t (text), a (audio), v (vision)")
    there = "".join(m[0] for m in MODALITIES if m[0] in modalities and (m == "text" or m in corpus.widths))
    if not there:
        raise ValueError(f"{corpus.name} has no vectors of the modalities {modalities!r}: add t, or extract them")
    return there


class DialogueTask(Task):
    """A network on the dialogues of a corpus.

    Args:
        run: what is trained.
        training: the dialogues that it learns from.
        validation: those by whose weighted F1 the epoch is chosen.
        rng: see :class:`Task`; PyTorch's generator must be seeded, for the network is made here.
        device: where it runs.
    """

    selection = "valid_weighted_f1"

    def __init__(
        self,
        run: Run,
        training: Sequence[Prepared],
        validation: Sequence[Prepared],
        rng: np.random.Generator,
        device: str = "cpu",
    ) -> None:
        recipe = run.recipe
        self.run, self.training, self.rng, self.device = run, training, rng, torch.device(device)
        self.network = build(run).to(self.device)
        there = [m for m, width in enumerate(run.widths) if width]
        for project, m in zip(self.network.projection, there, strict=True):  # type: ignore[arg-type]
            rows = torch.cat([(d.text, d.audio, d.vision)[m][d.mask[:, m]] for d in training])
            project.fit(rows.to(self.device))
        self.loss_of = Loss(recipe, torch.cat([dialogue.labels for dialogue in training]), len(run.labels))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.steps = -(-len(training) // recipe.batch)
        self.held_out = list(_batches(validation, recipe.batch))
        self.labels = np.concatenate([wanted.numpy() for _, wanted in self.held_out])

    def batches(self) -> Iterator[tuple[DialogueBatch, Tensor]]:
        """All dialogues in a new order, some modalities and speakers left out."""
        shuffled = [self.training[i] for i in self.rng.permutation(len(self.training))]
        for batch, wanted in _batches(shuffled, self.run.recipe.batch):
            yield _drop(batch, self.run.recipe, self.rng).to(self.device), wanted.to(self.device)

    def loss(self, batch: tuple[DialogueBatch, Tensor]) -> Tensor:
        """See :class:`Loss`."""
        dialogues, wanted = batch
        return self.loss_of(self.network(dialogues), dialogues, wanted)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Loss and scores before calibration."""
        logits = predict_logits(network, self.held_out)
        scores = score(_softmax(logits), self.labels, self.run.labels)
        return {
            "valid_loss": float(cross_entropy(torch.from_numpy(logits), torch.from_numpy(self.labels))),
            "valid_weighted_f1": scores.weighted_f1,
            "valid_macro_f1": scores.macro_f1,
        }


def train_seed(
    run: Run,
    splits: Sequence[Corpus],
    texts: Sequence[FloatArray],
    folder: Path,
    seed: int,
    device: str = "cpu",
    progress: bool = True,
) -> Scores:
    """Train one network and write its folder; returns its scores on the validation split.

    Args:
        run: what is trained.
        splits: for training and for validation.
        texts: their text vectors, as ``prepare`` takes them.
        folder: gets the weights and the log.
        seed: of everything that is drawn.
        device: where the network runs.
        progress: show a bar.

    Raises:
        TrainingError: the checkpoint cannot be used, or the loss is no longer finite.
    """
    training, validation = (prepare(*given, run.modalities) for given in zip(splits, texts, strict=True))
    task = DialogueTask(run, training, validation, seeded(seed), device)
    history = fit(task, run.recipe, folder, f"seed {seed}", made_of={"seed": seed}, progress=progress)
    return _finish(task, history.chosen(task.selection), folder, seed)


def _finish(task: DialogueTask, epoch: int, folder: Path, seed: int) -> Scores:
    """Fit the temperature, write everything, and delete the checkpoint: the sign that the seed is finished."""
    run, model = task.run, task.network
    logits = predict_logits(model, task.held_out)
    temperature = fit_temperature(logits, task.labels)
    model.temperature = (temperature,) * len(MODALITIES)  # type: ignore[assignment]
    scores = score(_softmax(logits / temperature), task.labels, run.labels)
    figures = {name: getattr(scores, name) for name in ("accuracy", "weighted_f1", "macro_f1", "ece", "n")}
    (folder / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n")
    description = Description(
        model_id=f"{run.recipe.model}-{run.corpus}-{run.context}-{seed}",
        labels=run.labels,
        encoders=run.encoders,
        training={
            "made_with": "synctva train",
            "corpus": run.corpus,
            "seed": seed,
            "epoch": epoch,
            "validation": figures,
        },
    )
    save(model, folder, description)
    forget(folder)
    return scores


def load_network(run: Run, folder: Path, device: str = "auto") -> nn.Module:
    """The trained network of the folder of a seed.

    Raises:
        WeightsError: its files cannot be used.
    """
    model: nn.Module
    model, _ = load(folder, _device(device), labels=run.labels, encoders=run.encoders, architectures=ARCHITECTURES)
    return model


@torch.inference_mode()
def predict_logits(model: nn.Module, batches: Sequence[tuple[DialogueBatch, Tensor]]) -> FloatArray:
    """Logits ``[n, C]`` before the temperature, for all utterances in their order."""
    model.eval()
    where = next(model.parameters()).device
    logits = [model(batch.to(where)).logits.cpu().numpy() for batch, _ in batches]
    return np.concatenate(logits).astype(np.float64)


def _batches(dialogues: Sequence[Prepared], size: int) -> Iterator[tuple[DialogueBatch, Tensor]]:
    for first in range(0, len(dialogues), size):
        yield collate(dialogues[first : first + size])


def _drop(batch: DialogueBatch, recipe: Recipe, rng: np.random.Generator) -> DialogueBatch:
    """Leave out modalities and speakers at random, at least one modality of each utterance staying."""
    if recipe.modality_dropout:
        kept = batch.mask & torch.from_numpy(rng.random(batch.mask.shape) >= recipe.modality_dropout)
        batch = replace(batch, mask=torch.where(kept.any(dim=1, keepdim=True), kept, batch.mask))
    if recipe.unknown_speakers:
        unknown = torch.from_numpy(rng.random(int(batch.dialogue[-1]) + 1) < recipe.unknown_speakers)[batch.dialogue]
        batch = replace(batch, speaker=batch.speaker.masked_fill(unknown, -1))
    return batch


def _softmax(logits: FloatArray) -> FloatArray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: FloatArray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def _device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ValueError(f"the device is {name!r}, but PyTorch finds no such device here: give 'cpu' or 'auto'")
        # Read when the first matrix is multiplied; without it cuBLAS may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return name
