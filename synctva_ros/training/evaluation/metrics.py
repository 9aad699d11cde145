"""How well a model recognises emotions: figures of one model on one set of utterances, and of several seeds together.

The figures are those of the papers on emotion recognition in conversation: accuracy, F1 weighted by how often a class
occurs, F1 averaged over the classes, and the expected calibration error, which says how far to trust the confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from synctva_ros.events import FloatArray

IntArray = NDArray[np.int64]
#: Numbers between 0 and 1 that ``summarise`` gives for all classes together, and for each class.
MEASURES = ("accuracy", "weighted_f1", "macro_f1", "ece")
CLASS_MEASURES = ("precision", "recall", "f1")
#: How far the probabilities of an utterance may be from 1 together.
SUM_TOLERANCE = 1e-3
#: Temperatures outside these say that the logits are broken, not that they need dividing.
TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognised.

    Attributes:
        precision: share of the utterances called this class that are of it, 0 if none is called so.
        recall: share of the utterances of this class that are called so, 0 if there are none.
        f1: harmonic mean of the two, 0 if both are 0.
        support: how many utterances are of this class.
    """

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Figures of one model (one seed) on one split, between 0 and 1.

    Attributes:
        accuracy: share of the utterances whose likeliest class is the right one.
        weighted_f1: mean F1 of the classes, each as heavy as it has utterances.
        macro_f1: mean F1 of the classes that occur among the labels, all equally heavy.
        ece: see ``expected_calibration_error``.
        per_class: the classes by name, in the order of the outputs.
        confusion: utterances ``[C, C]``; rows are the true classes, columns the predicted ones.
        n: how many utterances.
    """

    accuracy: float
    weighted_f1: float
    macro_f1: float
    ece: float
    per_class: dict[str, ClassScore]
    confusion: IntArray
    n: int

    @property
    def unweighted_recall(self) -> float:
        """Mean recall of the classes that occur among the labels, all equally heavy."""
        return float(np.mean([c.recall for c in self.per_class.values() if c.support]))


def score(probabilities: FloatArray, labels: IntArray, names: Sequence[str]) -> Scores:
    """Compare probabilities ``[n, C]`` with the true classes ``[n]``; ``names`` are those of the C classes.

    The predicted class is the likeliest one, the first of equals.

    Raises:
        ValueError: the probabilities are none, the labels or names do not fit them, or there are no utterances.
    """
    _check_probabilities(probabilities, labels)
    classes = probabilities.shape[1]
    if len(names) != classes or len(set(names)) != classes:
        raise ValueError(f"the names {list(names)} do not fit probabilities of {classes} classes: name each one once")
    predicted = probabilities.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    return Scores(
        accuracy=float((predicted == labels).mean()),
        weighted_f1=float(np.average(f1, weights=support)),
        macro_f1=float(f1[support > 0].mean()),
        ece=expected_calibration_error(probabilities, labels),
        per_class={
            name: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        },
        confusion=confusion_matrix(labels, predicted, labels=range(classes)),
        n=len(labels),
    )


def reliability(
    probabilities: FloatArray, labels: IntArray, bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What a reliability diagram shows: how often the model is right when it is so and so sure.

    The confidence is the probability of the likeliest class. The bins are equally wide; a confidence on the edge
    between two belongs to the lower one (Guo et al. 2017, "On Calibration of Modern Neural Networks").

    Returns:
        Mean confidence, accuracy and share of the utterances, one number for each bin that is not empty, in the order
        of the confidence. The shares sum to 1.

    Raises:
        ValueError: as in ``score``, or ``bins`` is not positive.
    """
    _check_probabilities(probabilities, labels)
    if bins < 1:
        raise ValueError(f"a calibration error over {bins} bins: use at least 1")
    # Float32 probabilities may exceed 1 by a rounding error.
    confidence = np.minimum(probabilities.max(1).astype(np.float64), 1.0)
    right = probabilities.argmax(1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    _, index, counts = np.unique(np.digitize(confidence, edges, right=True), return_inverse=True, return_counts=True)
    return (
        np.bincount(index, confidence) / counts,
        np.bincount(index, right) / counts,
        counts / len(labels),
    )


def expected_calibration_error(probabilities: FloatArray, labels: IntArray, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over the bins of ``reliability``, each as heavy as its share.

    0 is a model that is right in 70 % of the cases in which it is 70 % sure, and so on; 1 is one that is always sure
    and always wrong.

    Raises:
        ValueError: as in ``reliability``.
    """
    confidence, accuracy, share = reliability(probabilities, labels, bins)
    return float(np.sum(share * np.abs(accuracy - confidence)))


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """The divisor of the logits ``[n, C]`` with the least log loss on the labels ``[n]`` (Guo et al. 2017).

    It is searched in ``TEMPERATURES``. Logits without a mistake have their least log loss at the lower end.

    Raises:
        ValueError: the logits are not finite, the labels do not fit them, or there are no utterances.
    """
    _check("logits", logits, labels)
    exact = logits.astype(np.float64)
    true = np.take_along_axis(exact, labels[:, None], 1)[:, 0]

    # Convex in 1/T, so falling and then rising in log T, with no second valley to end in.
    def log_loss(log_temperature: float) -> float:
        scale = np.exp(-log_temperature)
        return float(np.mean(logsumexp(exact * scale, axis=1) - true * scale))

    found = minimize_scalar(log_loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(found.x))


def summarise(seeds: Mapping[int, Scores]) -> dict[str, Any]:
    """Figures of several trainings that differ in their seed alone, ready for JSON.

    Returns:
        A dictionary::

            {
              "accuracy": {"mean": 0.61, "std": 0.01, "seeds": {"1": 0.60, ...}},
              "weighted_f1": ..., "macro_f1": ..., "ece": ...,       the same
              "per_class": {"joy": {"precision": {"mean": 0.5, "std": 0.02}, "recall": ..., "f1": ..., "support": 163}},
              "confusion": {"labels": ["neutral", ...], "sum": [[...]]},     utterances of all seeds; rows are true
              "n": 1109                                              utterances of one seed
            }

        ``std`` is the sample deviation (n - 1 in the denominator), and 0 with one seed.

    Raises:
        ValueError: there are no seeds, or they were not measured on the same utterances.
    """
    if not seeds:
        raise ValueError("no seeds to summarise: score at least one model")
    first_seed, first = next(iter(seeds.items()))
    supports = {name: of_class.support for name, of_class in first.per_class.items()}
    for seed, scores in seeds.items():
        # As a list, because the order of the classes is that of the confusion matrix.
        if [(name, c.support) for name, c in scores.per_class.items()] != list(supports.items()):
            raise ValueError(
                f"seeds {first_seed} and {seed} differ in classes or utterances: score all seeds on the same split"
            )

    def over_seeds(values: Sequence[float]) -> dict[str, Any]:
        return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}

    summary: dict[str, Any] = {}
    for measure in MEASURES:
        values = {str(seed): getattr(scores, measure) for seed, scores in seeds.items()}
        summary[measure] = over_seeds(list(values.values())) | {"seeds": values}
    summary["per_class"] = {
        name: {m: over_seeds([getattr(s.per_class[name], m) for s in seeds.values()]) for m in CLASS_MEASURES}
        | {"support": support}
        for name, support in supports.items()
    }
    summary["confusion"] = {
        "labels": list(supports),
        "sum": np.sum([scores.confusion for scores in seeds.values()], axis=0).tolist(),
    }
    summary["n"] = first.n
    return summary


def _check(what: str, outputs: FloatArray, labels: IntArray) -> None:
    """Refuse outputs (``what`` says of which kind) that are not finite numbers ``[n, C]`` for labels ``[n]``."""
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1]:
        raise ValueError(
            f"{what} of shape {list(outputs.shape)} for labels of shape {list(labels.shape)}: give [n, C] and [n]"
        )
    if 0 in outputs.shape:
        raise ValueError(f"{what} of shape {list(outputs.shape)}: there is nothing to measure without utterances")
    if not np.isfinite(outputs).all():
        row = int(np.flatnonzero(~np.isfinite(outputs).all(1))[0])
        raise ValueError(f"{what} of utterance {row} are not finite: look for a diverged training or broken features")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of type {labels.dtype}: give the indices of the classes as integers")
    classes = outputs.shape[1]
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise ValueError(
            f"label {labels[wrong[0]]} of utterance {wrong[0]} is none of 0 to {classes - 1}: leave out utterances "
            "without a label, and use the class order of the model"
        )


def _check_probabilities(probabilities: FloatArray, labels: IntArray) -> None:
    _check("probabilities", probabilities, labels)
    sums = probabilities.sum(1, dtype=np.float64)
    wrong = np.flatnonzero((np.abs(sums - 1) > SUM_TOLERANCE) | (probabilities < 0).any(1))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} of the probabilities sums to {sums[wrong[0]]:.4g} with least value "
            f"{probabilities[wrong[0]].min():.4g}: give probabilities, such as the softmax of the logits"
        )
