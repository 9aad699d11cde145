"""What each part of Sync-TVA is worth: the same training without it, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.evaluation.compare import difference, p_shown
from synctva_ros.evaluation.metrics import INTERVAL, MEASURES, Scores
from synctva_ros.events import MODALITIES
from synctva_ros.network.synctva import GRAPHS
from synctva_ros.plural import counted
from synctva_ros.training.data.dialogues import Corpus, read_corpus
from synctva_ros.training.data.text_vectors import encode_texts
from synctva_ros.training.evaluate import evaluate
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks.dialogue import Context, Run, RunError, erc_folder, prepare, train, usable


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

    Before it begins, ``report`` gets how many trainings there are, and after the first ones how long the rest takes.

    Returns:
        For each variant what ``metrics.summarise`` returns, and as ``difference`` how its weighted F1 differs from that
        of the whole: ``difference``, ``interval`` and ``p`` as in ``compare.difference``.

    Raises:
        ValueError: the recipe is not for Sync-TVA; or as in ``dialogue.train`` and ``evaluate.evaluate``.
    """
    if recipe.model != "sync-tva":
        raise ValueError(f"the recipe is for {recipe.model!r}, which has no parts to leave out: give one for sync-tva")
    splits = [read_corpus(erc_folder(data), corpus, name) for name in ("train", "valid")]
    used = usable(splits[0], modalities)
    wanted = {}
    for name, (varied, letters) in variants(recipe, used).items():
        if name != "whole" and (reason := _lonely(splits, letters)):
            report(f"{name}: left out ({reason})")
        else:
            wanted[name] = varied, letters
    folders = {name: out / name.replace(" ", "-") for name in wanted}
    left = {name: _unfinished(folder, seeds) for name, folder in folders.items()}
    total, before = len(wanted) * len(seeds), len(wanted) * len(seeds) - sum(left.values())
    report(
        f"{counted(total, 'training')}: {counted(len(wanted), 'variant')}, {counted(len(seeds), 'seed')} each"
        + (f"; {before} finished before" if before else "")
    )
    if "t" in used and total > before:
        began = time.monotonic()
        encode_texts(splits, recipe, cache, progress)
        report(f"encoding the text took {duration(time.monotonic() - began)}")
    results: dict[str, dict[str, Any]] = {}
    scores: dict[str, list[Scores]] = {}
    told = False
    for name, (varied, letters) in wanted.items():
        began = time.monotonic()
        train(
            data,
            corpus,
            folders[name],
            varied,
            context=context,
            modalities=letters,
            seeds=seeds,
            cache=cache,
            device=device,
            progress=progress,
            # Whether a robot could use it is of no interest here.
            report=lambda line, name=name: report(f"{name}: {line}") if line.startswith("seed ") else None,  # type: ignore[misc]
        )
        spent, done = time.monotonic() - began, left.pop(name)
        if done and sum(left.values()) and not told:
            told = True
            report(
                f"{counted(done, 'training')} took {duration(spent)}: the other {sum(left.values())} will take about "
                f"{duration(spent / done * sum(left.values()))}"
            )
        found = evaluate(folders[name], data, corpus, "valid", cache=cache, device=device, progress=progress)
        scores[name] = list(found.predictions.scores().values())
        results[name] = found.summary
        if name != "whole":
            differs = difference(scores[name], scores["whole"])["measures"]["weighted_f1"]
            results[name]["difference"] = {key: differs[key] for key in ("difference", "interval", "p")}
    return results


def _unfinished(folder: Path, seeds: Sequence[int]) -> int:
    """How many of the seeds are still to be trained."""
    try:
        return len(set(seeds) - set(Run.read(folder).seeds(folder)))
    except RunError:
        return len(seeds)


def duration(seconds: float) -> str:
    """A time for people, in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


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
    """The results as a Markdown table, in percent, with the difference to the whole and its interval."""
    rows = [
        f"| variant | weighted F1 | difference | {INTERVAL} | p | macro F1 | calibration error |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, summary in results.items():
        weighted, macro, error = (
            MEASURES[m].number(summary[m]["mean"])
            + ("" if summary[m]["std"] is None else f" ± {MEASURES[m].number(summary[m]['std'])}")
            for m in ("weighted_f1", "macro_f1", "ece")
        )
        differs = summary.get("difference", {})
        by = f"{100 * differs['difference']:+.1f}" if differs else ""
        bounds = " to ".join(f"{100 * bound:+.1f}" for bound in differs.get("interval") or ())
        p = "" if differs.get("p") is None else p_shown(differs["p"])
        rows.append(f"| {name} | {weighted} | {by} | {bounds} | {p} | {macro} | {error} |")
    return "\n".join(rows)


def write_table(results: dict[str, dict[str, Any]], folder: Path) -> str:
    """Write ``ablation.md`` and ``ablation.json``; returns the table."""
    text = table(results)
    (folder / "ablation.md").write_text(text + "\n", encoding="utf-8")
    (folder / "ablation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return text
