"""What each part of Sync-TVA is worth: the same training without it, in one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.events import MODALITIES
from synctva_ros.network.synctva import GRAPHS
from synctva_ros.training.data.dialogues import Corpus, read_corpus
from synctva_ros.training.evaluation.evaluate import evaluate
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks.dialogue import Context, prepare, train, usable


def variants(recipe: Recipe, modalities: str) -> dict[str, tuple[Recipe, str]]:
    """Name of each variant, its recipe and its modalities; only what the modalities at hand can show."""
    letters = {name: name[0] for name in MODALITIES}
    graphs = [name for name, pair in GRAPHS.items() if all(letters[MODALITIES[m]] in modalities for m in pair)]
    several = len(modalities) > 1
    found = {"whole": (recipe, modalities)}
    for part in ("enhancement", "memory", *graphs, *(("cross_attention",) if several else ())):
        found[f"without {part.replace('_', '-')}"] = (
            replace(recipe, without=",".join((*recipe.parts_left_out, part))),
            modalities,
        )
    if several:
        for letter in modalities:
            name = next(name for name, own in letters.items() if own == letter)
            found[f"{name} alone"] = (recipe, letter)
            # Of two, leaving one out is the other alone.
            if len(modalities) > 2:
                found[f"without {name}"] = (recipe, modalities.replace(letter, ""))
    for model in ("gru", "mlp"):
        found[f"reference {model}"] = (replace(recipe, model=model, layers=2 if model == "gru" else 1), modalities)
    return found


def ablate(
    data: Path,
    corpus: str,
    out: Path,
    recipe: Recipe,
    *,
    context: Context,
    modalities: str,
    seeds: Sequence[int],
    cache: Path | None = None,
    device: str = "auto",
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Train every variant in its own folder of ``out`` and score it on the validation split.

    What is there already is not trained again. A variant whose modalities leave an utterance with nothing is left out,
    and ``report`` gets the reason.

    Returns:
        For each variant what ``metrics.summarise`` returns.

    Raises:
        ValueError: the recipe is not for Sync-TVA; or as in ``trainer.train`` and ``evaluate.evaluate``.
    """
    if recipe.model != "sync-tva":
        raise ValueError(f"the recipe is for {recipe.model!r}, which has no parts to leave out: give one for sync-tva")
    splits = [read_corpus(data, corpus, name) for name in ("train", "valid")]
    results = {}
    for name, (varied, letters) in variants(recipe, usable(splits[0], modalities)).items():
        if name != "whole" and (reason := _lonely(splits, letters)):
            report(f"{name}: left out ({reason})")
            continue
        folder = out / name.replace(" ", "-")
        train(
            data,
            corpus,
            folder,
            varied,
            context=context,
            modalities=letters,
            seeds=seeds,
            cache=cache,
            device=device,
            progress=progress,
            report=lambda line, name=name: report(f"{name}: {line}"),  # type: ignore[misc]
        )
        results[name] = evaluate(folder, data, corpus, "valid", cache=cache, device=device, progress=progress).summary
    return results


def _lonely(splits: Sequence[Corpus], modalities: str) -> str:
    """Which utterance has none of the modalities, and so cannot be classified by them; empty if there is none."""
    if "t" in modalities:
        return ""
    try:
        for split in splits:
            prepare(split, np.zeros((len(split), 0), np.float32), modalities)
    except ValueError as error:
        return str(error)
    return ""


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table, in percent, with the difference to the whole."""
    whole = results["whole"]["weighted_f1"]["mean"]
    rows = ["| variant | weighted F1 | difference | macro F1 | calibration error |", "|---|---|---|---|---|"]
    for name, summary in results.items():
        figure = {
            m: f"{100 * summary[m]['mean']:.1f} ± {100 * summary[m]['std']:.1f}"
            for m in ("weighted_f1", "macro_f1", "ece")
        }
        difference = 100 * (summary["weighted_f1"]["mean"] - whole)
        rows.append(
            f"| {name} | {figure['weighted_f1']} | {difference:+.1f} | {figure['macro_f1']} | {figure['ece']} |"
        )
    return "\n".join(rows)


def write_table(results: dict[str, dict[str, Any]], folder: Path) -> str:
    """Write ``ablation.md`` and ``ablation.json``; returns the table."""
    text = table(results)
    (folder / "ablation.md").write_text(text + "\n", encoding="utf-8")
    (folder / "ablation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return text
