"""Scores of a run folder on a split of a corpus: a table, a JSON file, a page with plots."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synctva_ros.encoders.adapter import ARCHITECTURE as ADAPTER
from synctva_ros.evaluation.metrics import CHOSEN_HERE, CLASS_MEASURES, INTERVAL, MEASURES, summarise
from synctva_ros.evaluation.predictions import Predictions
from synctva_ros.events import MODALITIES
from synctva_ros.network.weights import load
from synctva_ros.plural import counted
from synctva_ros.training.data.dialogues import VECTORS, Corpus, as_heard, as_recognised, read_corpus
from synctva_ros.training.data.text_vectors import encode_texts
from synctva_ros.training.loop import LOG, read_log
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks.dialogue import (
    DESCRIPTION,
    Run,
    RunError,
    collate,
    erc_folder,
    load_network,
    prepare,
)
from synctva_ros.weights import WEIGHTS, files

_DIALOGUES = 16  # a step


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        run: what was trained.
        summary: JSON-ready: what ``metrics.summarise`` returns, and ``chosen_on_this_split``, whether the epoch and the
            temperature were chosen by these utterances: the figures are then a little too good.
        predictions: calibrated probabilities, and the truth.
        seconds: what encoding the text and what the networks took.
    """

    run: Run
    summary: dict[str, Any]
    predictions: Predictions
    seconds: tuple[float, float]


def evaluate(
    folder: Path,
    data: Path,
    corpus: str,
    split: str,
    *,
    modalities: str | None = None,
    recognised: bool = False,
    speakers: float | None = 1.0,
    cache: Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Evaluation:
    """Score every finished seed of a run folder, or the weights in a folder.

    Args:
        folder: the run folder, or one with weights, such as those that come with the package.
        data: folder with the corpus.
        corpus: its name; its classes must be those of the run.
        split: its split.
        modalities: letters of those to use, of those that the run was trained with; None for all of them.
        recognised: read the words as a speech recogniser would write them, in lower case without punctuation.
        speakers: share of the utterances of which the right speaker is known (:func:`.dialogues.as_heard`); None: of
            none of them anything is.
        cache: where text vectors are kept; None for the user's cache folder.
        device: "auto" for an accelerator where there is one.
        progress: show a bar while texts are encoded.

    Raises:
        RunError: the run and the corpus do not fit.
        CorpusError: the corpus cannot be used.
        WeightsError: the weights of a seed cannot be used.
    """
    run, networks, chosen_on = _trained(folder)
    used = run.modalities if modalities is None else modalities
    if not used or set(used) - set(run.modalities):
        raise RunError(f"{folder} was trained with the modalities {run.modalities!r}, not {used!r}: name some of those")
    read = read_corpus(erc_folder(data), corpus, split)
    if recognised:
        plain = (replace(d, texts=tuple(map(as_recognised, d.texts))) for d in read.dialogues)
        read = replace(read, dialogues=tuple(plain))
    if speakers is None:
        read = replace(read, dialogues=tuple(replace(d, speakers=("",) * len(d.speakers)) for d in read.dialogues))
    elif speakers < 1.0:
        rng = np.random.default_rng(0)
        heard = (replace(d, speakers=as_heard(d.speakers, speakers, rng)) for d in read.dialogues)
        read = replace(read, dialogues=tuple(heard))
    if read.labels != run.labels:
        raise RunError(
            f"{folder} was trained for the classes {', '.join(run.labels)}, but {corpus} has "
            f"{', '.join(read.labels)}: evaluate it on a corpus of the same classes"
        )
    _check_vectors(folder, run, read, used)
    began = time.monotonic()
    text = np.zeros((len(read), run.widths[0]), np.float32)
    if "t" in used:
        (text,), name, _ = encode_texts([read], run.recipe, cache, progress)
        if name != run.encoders["text"]:
            raise RunError(
                f"{folder} was trained with the text encoder {run.encoders['text']}, here it is {name}: install or "
                "configure the same one"
            )
    encoded = time.monotonic()
    dialogues = prepare(read, text, used, run.widths)
    steps = [collate(dialogues[first : first + _DIALOGUES]) for first in range(0, len(dialogues), _DIALOGUES)]
    labels = np.concatenate([wanted.numpy() for _, wanted in steps])
    probabilities = {}
    for seed, where_it_is in networks.items():
        model = load_network(run, where_it_is, device)
        where = next(model.parameters()).device
        with torch.inference_mode():
            parts = [model.probabilities(model(batch.to(where))).double().cpu().numpy() for batch, _ in steps]  # type: ignore[operator]
        probabilities[seed] = np.concatenate(parts)
    predictions = Predictions(
        names=run.labels,
        items=tuple(f"{d.id}/{number}" for d in read.dialogues for number in range(1, 1 + len(d.texts))),
        groups=tuple(d.id for d in read.dialogues for _ in d.texts),
        unit="dialogue",
        labels=labels,
        probabilities=probabilities,
    )
    seconds = (encoded - began, time.monotonic() - encoded)
    summary = summarise(predictions.scores())
    summary["chosen_on_this_split"] = f"{corpus} {split}" in chosen_on
    return Evaluation(run, summary, predictions, seconds)


def _trained(folder: Path) -> tuple[Run, dict[int, Path], tuple[str, ...]]:
    """What was trained, the folder of each seed's network, and by which splits epoch and temperature were chosen."""
    if (folder / DESCRIPTION).is_file() or not (folder / files.DESCRIPTION).is_file():
        run = Run.read(folder)
        return run, {seed: folder / f"seed-{seed}" for seed in run.seeds(folder)}, (f"{run.corpus} valid",)
    model, described = load(folder)
    config = model.config
    encoders = [described.encoders[name] for name in MODALITIES]
    # The adapters that come with the package are found by what the text encoder calls itself with them.
    adapter = next((name for name, tuned in _adapters().items() if encoders[0].endswith(f"+{tuned}")), "")
    used = "".join(name[0] for name, width in zip(MODALITIES, config.widths, strict=True) if width)
    run = Run(
        corpus=described.model_id,
        labels=described.labels,
        context=config.context,
        modalities=used,
        encoders=dict(zip(MODALITIES, encoders, strict=True)),
        widths=config.widths,
        recipe=Recipe(text_adapter=adapter),
    )
    about = described.training
    chosen_on = about.get("chosen_on", [f"{about['corpus']} valid"] if "corpus" in about else [])
    return run, {int(about.get("seed", 0)): folder}, tuple(chosen_on)


def _adapters() -> dict[str, str]:
    """Folder and name of each adapter that comes with the package."""
    found = {path.parent.name: json.loads(path.read_bytes()) for path in WEIGHTS.glob(f"*/{files.DESCRIPTION}")}
    return {folder: str(written["name"]) for folder, written in found.items() if written["architecture"] == ADAPTER}


def _check_vectors(folder: Path, run: Run, corpus: Corpus, used: str) -> None:
    for name, width in zip(VECTORS, run.widths[1:], strict=True):
        if name[0] not in used:
            continue
        there = corpus.widths.get(name, 0)
        if there != width:
            raise RunError(
                f"{folder} was trained with {name} vectors of width {width}, but {corpus.name} {corpus.split} has "
                f"{f'width {there}' if there else 'none'}: extract them with the encoder {run.encoders[name]!r}, or "
                "leave the modality out with --modalities"
            )
        encoder = corpus.encoders.get(name) or "unnamed"
        if encoder != run.encoders[name]:
            raise RunError(
                f"{folder} was trained with {name} vectors of {run.encoders[name]!r}, but those of {corpus.name} "
                f"{corpus.split} are of {encoder!r}: extract them with the same encoder"
            )


def write_page(found: Evaluation, folder: Path, corpus: str, split: str, path: Path) -> None:
    """Write the page with the plots: confusion, reliability, classes, training curves.

    Raises:
        ImportError: there is no matplotlib.
    """
    from synctva_ros.evaluation.report import ReportData, write_report

    run, seeds = found.run, list(found.predictions.probabilities)
    write_report(
        ReportData(
            title=f"{run.recipe.model} on {corpus} {split}",
            subtitle=f"{counted(len(seeds), 'seed')}, {run.context} context, modalities "
            f"{', '.join(m for m in run.encoders if m[0] in run.modalities)}",
            names=run.labels,
            summary=found.summary,
            probabilities=found.predictions.probabilities,
            labels=found.predictions.labels,
            curves={seed: _curves(folder / f"seed-{seed}") for seed in seeds},
            notes=(f"Trained on {run.corpus}; text encoder {run.encoders['text']}.",),
        ),
        path,
    )


def _curves(folder: Path) -> dict[str, list[float]]:
    """What was measured after each epoch, and which was chosen; empty where there is no log."""
    from synctva_ros.evaluation.report import CHOSEN_EPOCH

    if not (folder / LOG).is_file():
        return {}
    columns = {name: values for name, values in read_log(folder / LOG).items() if name not in ("epoch", "seconds")}
    about = json.loads((folder / files.DESCRIPTION).read_bytes())["training"]
    return columns | {CHOSEN_EPOCH: [about["epoch"]]}


def print_scores(found: Evaluation) -> None:
    """Print the figures for people."""
    from rich.console import Console
    from rich.table import Table

    summary, seeds = found.summary, list(found.predictions.probabilities)
    console = Console(highlight=False)
    groups = summary["groups"]
    console.print(
        f"{counted(summary['n'], 'utterance')} in {counted(groups['n'], groups['unit'])}, {counted(len(seeds), 'seed')}"
    )
    if summary["chosen_on_this_split"]:
        console.print(CHOSEN_HERE)
    over_all = Table.grid(padding=(0, 3))
    for name, measure in MEASURES.items():
        over_all.add_row(measure.heading, measure.shown(summary[name]))
    console.print(over_all)
    table = Table("class", *(f"{CLASS_MEASURES[m].title}, %" for m in ("f1", "precision", "recall")), "utterances")
    for name, figures in summary["per_class"].items():
        others = (CLASS_MEASURES[m].shown(figures[m] | {"interval": None}) for m in ("precision", "recall"))
        table.add_row(name, CLASS_MEASURES["f1"].shown(figures["f1"]), *others, str(figures["support"]))
    console.print(table)
    text, networks = found.seconds
    several = f" ± is the deviation over {len(seeds)} seeds." if len(seeds) > 1 else ""
    console.print(f"In brackets: {INTERVAL} over the {groups['unit']}s.{several}" if groups["n"] > 1 else "")
    console.print(f"Encoding the text took {text:.1f} s, the networks {networks:.1f} s.")
