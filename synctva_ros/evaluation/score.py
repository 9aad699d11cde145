"""Scores of what ``synctva recognize`` wrote, against the truth: a table, figures as JSON, a page with plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synctva_ros.evaluation.classes import class_index
from synctva_ros.evaluation.metrics import INTERVAL, MEASURES, IntArray, Scores, score, summarise
from synctva_ros.evaluation.predictions import NO_ANSWER, Predictions
from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.plural import counted
from synctva_ros.sources.files import find_files, match_files, read_lines, read_table, shown

#: Figures of the answers as choices, to which no answer belongs as a wrong one, and those of how sure they are.
CHOICES = ("accuracy", "unweighted_recall", "weighted_f1", "macro_f1")
CONFIDENCES = ("ece", "log_loss")


@dataclass(frozen=True, eq=False)
class Answer:
    """What was said of a file: ``probabilities`` ``[C]``, and whether all of its utterances are UNCERTAIN."""

    probabilities: FloatArray
    uncertain: bool


@dataclass(frozen=True, eq=False)
class Judgement:
    """Answers and truth of n files.

    Attributes:
        names: the C classes, in the order of the probabilities.
        files: as the labels name them.
        labels: the true classes ``[n]``.
        answers: None for a file of which nothing was said.
        persons: who is heard or seen in each file; empty where the labels do not say.
    """

    names: tuple[str, ...]
    files: tuple[str, ...]
    labels: IntArray
    answers: tuple[Answer | None, ...]
    persons: tuple[str, ...] = ()

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which files have an answer: ``[n]``."""
        return np.array([answer is not None for answer in self.answers])

    @property
    def probabilities(self) -> FloatArray:
        """Those of the files with an answer: ``[answered, C]``, each summing to 1."""
        return np.stack([answer.probabilities for answer in self.answers if answer is not None])

    @property
    def predictions(self) -> Predictions:
        """The answers in the form that can be compared with others'."""
        nothing = np.full(len(self.names), np.nan, np.float32)
        return Predictions(
            names=self.names,
            items=self.files,
            groups=self.persons or self.files,
            unit="person" if self.persons else "file",
            labels=self.labels,
            probabilities={
                0: np.stack([nothing if answer is None else answer.probabilities for answer in self.answers])
            },
        )


def judge(recognised: Path, labels: Path | None, warn: Callable[[str], None]) -> Judgement:
    """Put what was recognised beside the truth.

    Args:
        recognised: JSON lines of ``synctva recognize``. Of several utterances of a file the probabilities are averaged,
            each as heavy as it is long.
        labels: a CSV table with the columns ``file`` and ``emotion``, and ``actor`` where it is known, or a folder with
            a folder per class, whose files are of this class. None: a file's class is the name of its folder; which
            have no answer is not known.
        warn: called with one sentence about labels that are none of the network's classes, and with one about answers
            that no label is there for; both are left out.

    Raises:
        ValueError: something cannot be read, all classes are unknown, or the labels name none of the files.
    """
    names, answers = _read_answers(recognised)
    if labels is None:
        written = {file: (Path(file).parent.name, file) for file in answers}
    elif labels.is_dir():
        inside = [file.relative_to(labels) for file in find_files([labels]).files]
        written = {shown(file): (file.parent.name, shown(file)) for file in inside}
    else:
        rows = read_table(labels, "emotion")
        written = {file: (name, f"line {line}") for file, (line, name) in rows.items()}
    try:
        persons = read_table(labels, "actor") if labels is not None and labels.is_file() else {}
    except ValueError:  # a column that need not be there; all else was found to be right
        persons = {}
    try:
        meant = match_files(written, list(answers))
    except ValueError as error:
        raise ValueError(f"{shown(labels or recognised)}: {error}") from error
    classes = {file: _class(names, name) for file, (name, _) in written.items()}
    truth = {file: number for file, number in classes.items() if number is not None}
    if foreign := [written[file] for file, number in classes.items() if number is None]:
        examples = ", ".join([f"{where}: {name!r}" for name, where in foreign[:3]] + ["..."] * (len(foreign) > 3))
        sentence = (
            f"{shown(labels or recognised)}: {len(foreign)} of {counted(len(written), 'file')} "
            f"{'has' if len(foreign) == 1 else 'have'} a class that is none of {', '.join(names)} ({examples})"
        )
        if not truth:
            raise ValueError(f"{sentence}; rename the classes")
        warn(f"{sentence}; left out")
    labelled = set(meant.values())
    meant = {name: file for name, file in meant.items() if name in truth}
    if not meant:
        example = f", such as {next(iter(truth))}," if truth else ""
        raise ValueError(
            f"{shown(labels or recognised)}: none of its {counted(len(truth), 'file')}{example} is in "
            f"{shown(recognised)}, which names {next(iter(answers))}; give the labels of the same files"
        )
    if len(labelled) < len(answers):
        without = next(file for file in answers if file not in labelled)
        warn(f"left out: {counted(len(answers) - len(labelled), 'file')} without a label, such as {without}")
    return Judgement(
        names,
        tuple(truth),
        np.array(list(truth.values())),
        tuple(answers.get(meant.get(file, "")) for file in truth),
        tuple(persons[file][1] for file in truth) if persons else (),
    )


def _class(names: Sequence[str], written: str) -> int | None:
    """Number of a class by any of its names; None when it is none of them."""
    try:
        emotion = EMOTIONS[class_index(written.strip().lower())]
    except ValueError:
        emotion = written.strip()  # other weights may have other classes
    return names.index(emotion) if emotion in names else None


def _read_answers(path: Path) -> tuple[tuple[str, ...], dict[str, Answer]]:
    names: tuple[str, ...] = ()
    said: dict[str, list[tuple[float, FloatArray, bool]]] = {}
    for line, emotion in read_lines(path):
        try:
            file, labels = str(emotion["file"]), tuple(map(str, emotion["labels"]))
            probabilities = np.array(emotion["probabilities"], np.float32)
            duration = float(emotion["stream_end"]) - float(emotion["stream_start"])
            uncertain = bool(emotion["status"] == "UNCERTAIN")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{shown(path)}, line {line}: it is no utterance ({type(error).__name__}: {error}); give what synctva "
                "recognize --json wrote"
            ) from error
        names = names or labels
        if labels != names or probabilities.shape != (len(names),):
            raise ValueError(
                f"{shown(path)}, line {line}: it has other classes than the lines before; do not mix weights"
            )
        said.setdefault(file, []).append((duration, probabilities, uncertain))
    if not said:
        raise ValueError(f"{shown(path)}: there are no utterances in it, so there is nothing to score")
    return names, {file: _together(utterances) for file, utterances in said.items()}


def _together(utterances: Sequence[tuple[float, FloatArray, bool]]) -> Answer:
    weights = np.array([duration for duration, _, _ in utterances])
    if not weights.sum() > 0.0:  # still images have no duration
        weights = np.ones(len(utterances))
    mean = np.average(np.stack([probabilities for _, probabilities, _ in utterances]), axis=0, weights=weights)
    return Answer(mean.astype(np.float32), all(uncertain for _, _, uncertain in utterances))


def figures(found: Judgement) -> dict[str, Any]:
    """All figures, ready for JSON.

    Returns:
        A dictionary::

            {
              "n": 26, "answered": 25, "no_answer": 1,
              "accuracy", "unweighted_recall", "weighted_f1", "macro_f1",    a file without an answer is wrong
              "recall": {"joy": {"recall": 0.5, "n": 4}, ...},               the same
              "answered_only": {"accuracy", "unweighted_recall", "weighted_f1", "macro_f1"},
              "ece", "log_loss",                                             of the answers
              "intervals": {"accuracy": [0.4, 0.7], ...},                    of each of these; None with one group
              "groups": {"unit": "person", "n": 8},                          which were drawn for the intervals
              "uncertain": 0.1,                                              share of the answers
              "accuracy_if_certain": 0.8,                                    null if all are UNCERTAIN
              "confusion": {"true": [...], "said": [..., "no answer"], "counts": [[...]]}
            }
    """
    answered, said = found.answered, found.predictions
    everything = said.scores(silence=True)[0]
    answers = _answered(said, answered)
    certain = np.array([not answer.uncertain for answer in found.answers if answer is not None])
    right = found.probabilities.argmax(1) == found.labels[answered]
    of_all, of_answers = summarise({0: everything}), summarise({0: answers})
    return {
        "n": len(found.labels),
        "answered": int(answered.sum()),
        "no_answer": int((~answered).sum()),
        **{name: getattr(everything, name) for name in CHOICES},
        "recall": {
            name: {"recall": of_class.recall, "n": of_class.support}
            for name, of_class in everything.per_class.items()
            if name != NO_ANSWER
        },
        "answered_only": {name: getattr(answers, name) for name in CHOICES},
        **{name: getattr(answers, name) for name in CONFIDENCES},
        "intervals": {name: of_all[name]["interval"] for name in CHOICES}
        | {name: of_answers[name]["interval"] for name in CONFIDENCES},
        "groups": of_all["groups"],
        "uncertain": float(1.0 - certain.mean()),
        "accuracy_if_certain": float(right[certain].mean()) if certain.any() else None,
        "confusion": {
            "true": list(found.names),
            "said": [*found.names, NO_ANSWER],
            "counts": everything.confusion[: len(found.names)].tolist(),
        },
    }


def _answered(said: Predictions, answered: NDArray[np.bool_]) -> Scores:
    groups = [group for group, there in zip(said.groups, answered, strict=True) if there]
    return score(said.probabilities[0][answered], said.labels[answered], said.names, groups=groups, unit=said.unit)


def print_figures(reached: Mapping[str, Any]) -> None:
    """Print what ``figures`` returned for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    only = reached["answered_only"]
    silent = reached["no_answer"]
    groups = reached["groups"]
    console.print(
        counted(reached["n"], "file")
        + (f" of {counted(groups['n'], 'person')}" if groups["unit"] == "person" else "")
        + (f", {silent} of them without an answer, which counts as wrong" if silent else "")
    )
    over_all = Table.grid(padding=(0, 3))
    for name in (*CHOICES, *CONFIDENCES):
        measure = MEASURES[name]
        value = measure.number(reached[name]) + measure.bounds(reached["intervals"][name])
        without = f"{measure.number(only[name])} without those" if silent and name in CHOICES else ""
        over_all.add_row(measure.heading, value, without)
    certain = reached["accuracy_if_certain"]
    others = "" if certain is None else f"of the answers; of the others {100 * certain:.1f} % are right"
    over_all.add_row("UNCERTAIN, %", f"{100 * reached['uncertain']:.1f}", others)
    console.print(over_all)
    table = Table("class", "recall", "files", "most often taken for")
    said = reached["confusion"]["said"]
    for (name, of_class), counts in zip(reached["recall"].items(), reached["confusion"]["counts"], strict=True):
        if not of_class["n"]:
            continue
        count, mistake = max((count, other) for count, other in zip(counts, said, strict=True) if other != name)
        taken = f"{mistake} ({100 * count / of_class['n']:.1f} %)" if count else ""
        table.add_row(name, f"{100 * of_class['recall']:.1f} %", str(of_class["n"]), taken)
    console.print(table)
    if groups["n"] > 1:
        console.print(f"In brackets: {INTERVAL} over the {groups['unit']}s.")


def write_page(found: Judgement, recognised: Path, path: Path) -> None:
    """Write the page with the plots: classes, confusion, reliability; of the files with an answer.

    Raises:
        ImportError: there is no matplotlib.
    """
    from synctva_ros.evaluation.report import write_scores

    answered = found.answered
    labels, probabilities = found.labels[answered], found.probabilities
    silent = int((~answered).sum())
    wrong = figures(found)["accuracy"]
    notes = (
        f"Of {silent} of {counted(len(answered), 'file')} nothing was said; this is not in the figures above. Counted "
        f"as wrong, it brings the accuracy to {100 * wrong:.1f} %."
    )
    write_scores(
        path,
        _answered(found.predictions, answered),
        probabilities,
        labels,
        title=f"{recognised.stem}: what was recognised",
        subtitle=f"{counted(len(labels), 'file')}, one answer each",
        names=found.names,
        notes=(notes,) if silent else (),
    )
