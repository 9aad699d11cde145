"""How well a model recognises emotions: figures of one model on one set of items, of several seeds, and of two runs.

All that this package measures is measured here: ``evaluate``, ``score``, ``ablate``, ``compare``, the trainings and the
cards. The figures are those of the papers on emotion recognition in conversation and in speech. What they are counted
from comes from scikit-learn, or is counted the same way where many draws are to be counted at once; torchmetrics would
be one more package to install, and knows neither draws of whole dialogues nor macro F1 over the classes that occur.

Intervals are of the bootstrap over groups: utterances of a dialogue resemble each other, and so do those of a speaker,
so whole dialogues or speakers are drawn anew. See ``docs/evaluation.md``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, ndtr, ndtri, stdtr, stdtrit
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, roc_curve

from synctva_ros.events import FloatArray

IntArray = NDArray[np.int64]
DoubleArray = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A figure of a model.

    Attributes:
        title: what it is called in tables.
        meaning: a sentence for people who are new to it.
        better: 1 where a larger figure is better, -1 where a smaller one is.
        percent: whether it is between 0 and 1 and shown in percent.
        inflated: whether chance makes it larger: so does the distance between confidence and accuracy, of which the
            sign is lost.
    """

    title: str
    meaning: str
    better: int = 1
    percent: bool = True
    inflated: bool = False

    def number(self, value: float, sign: str = "") -> str:
        """The figure as in tables, in percent where it is; ``sign`` is "+" for a difference."""
        return f"{100 * value:{sign}.1f}" if self.percent else f"{value:{sign}.3f}"

    def shown(self, figure: Mapping[str, Any]) -> str:
        """A figure of ``summarise``: ``61.1 ± 0.5 (58.9 to 63.0)``."""
        text = self.number(figure["mean"])
        if figure["std"] is not None:
            text += f" ± {self.number(figure['std'])}"
        return text + self.bounds(figure["interval"])

    def bounds(self, interval: Sequence[float] | None) -> str:
        """An interval in brackets, with a space in front; nothing where there is none."""
        return "" if interval is None else f" ({' to '.join(map(self.number, interval))})"

    @property
    def heading(self) -> str:
        """The title with the unit that its numbers have."""
        return f"{self.title}, {'%' if self.percent else 'nats'}"


#: What ``summarise`` gives for all classes together, and for each class.
MEASURES = {
    "accuracy": Measure("accuracy", "Share of the utterances whose emotion it names correctly."),
    "weighted_f1": Measure(
        "weighted F1", "Mean F1 of the emotions, each as heavy as it is frequent: the figure that papers compare."
    ),
    "macro_f1": Measure("macro F1", "Mean F1 of the emotions, all equally heavy: low if rare ones are missed."),
    "unweighted_recall": Measure(
        "unweighted recall",
        "Mean share of each emotion that is found, all equally heavy: what papers on voices compare.",
    ),
    "ece": Measure(
        "calibration error",
        "How far its confidence is from how often it is right. This one should be small.",
        better=-1,
        inflated=True,
    ),
    "log_loss": Measure(
        "log loss",
        "How little it believed in what was true, in nats. This one should be small too.",
        better=-1,
        percent=False,
    ),
}
CLASS_MEASURES = {
    "precision": Measure("precision", "Of the utterances that it calls this emotion, the share that are of it."),
    "recall": Measure("recall", "Share of the utterances of this emotion that it finds."),
    "f1": Measure("F1", "High if both are."),
}
#: How far the probabilities of an utterance may be from 1 together.
SUM_TOLERANCE = 1e-3
#: Temperatures outside these say that the logits are broken, not that they need dividing.
TEMPERATURES = (0.05, 20.0)
#: Of the calibration error.
BINS = 15
#: How often the groups are drawn anew for an interval, and how much of the draws it holds.
DRAWS, LEVEL = 2000, 0.95
INTERVAL = f"{100 * LEVEL:.0f} % interval"


#: Said where ``chosen_on_this_split`` is true.
CHOSEN_HERE = (
    "The epoch and the temperature were chosen by these very utterances: expect a little less on others, also of the "
    "calibration."
)


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


@dataclass(frozen=True, eq=False)
class Items:
    """What the figures are counted from, so that they can be counted anew for a draw of the items.

    Attributes:
        labels: true class ``[n]``.
        predicted: likeliest class ``[n]``.
        confidence: its probability ``[n]``.
        right: how right it is, 0 to 1 ``[n]``.
        log_loss: nats ``[n]``.
        groups: number of the group that an item is of, from 0 ``[n]``.
        unit: what a group is, such as "dialogue".
    """

    labels: IntArray
    predicted: IntArray
    confidence: DoubleArray
    right: DoubleArray
    log_loss: DoubleArray
    groups: IntArray
    unit: str

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return int(self.groups.max()) + 1


@dataclass(frozen=True)
class Scores:
    """Figures of one model (one seed) on one split; all but the log loss are between 0 and 1.

    Attributes:
        accuracy: share of the utterances whose likeliest class is the right one.
        weighted_f1: mean F1 of the classes, each as heavy as it has utterances.
        macro_f1: mean F1 of the classes that occur among the labels, all equally heavy.
        unweighted_recall: mean recall of the classes that occur among the labels, all equally heavy.
        ece: see ``expected_calibration_error``.
        log_loss: mean negative logarithm of the probability of what is true, in nats.
        per_class: the classes by name, in the order of the outputs.
        confusion: utterances ``[C, C]``; rows are the true classes, columns the predicted ones.
        n: how many utterances.
        items: what all this was counted from.
    """

    accuracy: float
    weighted_f1: float
    macro_f1: float
    unweighted_recall: float
    ece: float
    log_loss: float
    per_class: dict[str, ClassScore]
    confusion: IntArray
    n: int
    items: Items = field(repr=False, compare=False)


def score(
    probabilities: FloatArray,
    labels: IntArray,
    names: Sequence[str],
    *,
    groups: Sequence[Hashable] | None = None,
    unit: str = "utterance",
    votes: FloatArray | None = None,
) -> Scores:
    """Compare probabilities with the truth.

    The predicted class is the likeliest one, the first of equals.

    Args:
        probabilities: ``[n, C]``.
        labels: the true classes ``[n]``.
        names: of the C classes.
        groups: which dialogue or person each of the n utterances is of: these are drawn for intervals. None: each
            utterance is on its own.
        unit: what a group is, in the singular.
        votes: share of the people who named each class ``[n, C]``, where people do not agree. Log loss and calibration
            error are then measured against these, all else against the labels.

    Raises:
        ValueError: the probabilities are none, what is given does not fit them, or there are no utterances.
    """
    _check_probabilities("probabilities", probabilities, labels)
    n, classes = probabilities.shape
    if len(names) != classes or len(set(names)) != classes:
        raise ValueError(f"the names {list(names)} do not fit probabilities of {classes} classes: name each one once")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(range(n) if groups is None else groups))}
    codes = np.array([numbers[group] for group in (range(n) if groups is None else groups)])
    if len(codes) != n:
        raise ValueError(f"{len(codes)} groups for {n} utterances: name the {unit} of each")
    if votes is None:
        votes = np.eye(classes, dtype=np.float32)[labels]
    elif votes.shape != probabilities.shape:
        raise ValueError(f"votes of shape {list(votes.shape)} for probabilities of shape {[n, classes]}: give the same")
    else:
        _check_probabilities("votes", votes, labels)
    predicted = probabilities.argmax(1)
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    exact = probabilities.astype(np.float64)
    loss = -(votes * np.log(np.maximum(exact, np.finfo(np.float64).eps))).sum(1)
    return Scores(
        accuracy=float((predicted == labels).mean()),
        weighted_f1=float(np.average(f1, weights=support)),
        macro_f1=float(f1[support > 0].mean()),
        unweighted_recall=float(recall[support > 0].mean()),
        ece=expected_calibration_error(probabilities, labels, votes=votes),
        log_loss=float(loss.mean()),
        per_class={
            name: ClassScore(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        },
        confusion=confusion_matrix(labels, predicted, labels=range(classes)),
        n=n,
        items=Items(labels, predicted, *_confidence(probabilities, votes), loss, codes, unit),
    )


def reliability(
    probabilities: FloatArray, labels: IntArray, bins: int = BINS, *, votes: FloatArray | None = None
) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """What a reliability diagram shows: how often the model is right when it is so and so sure.

    The confidence is the probability of the likeliest class. The bins are equally wide; a confidence on the edge
    between two belongs to the lower one (Guo et al. 2017, "On Calibration of Modern Neural Networks"). With ``votes``,
    as in ``score``, it is as right as the share of the people who say the same.

    Returns:
        Mean confidence, accuracy and share of the utterances, one number for each bin that is not empty, in the order
        of the confidence. The shares sum to 1.

    Raises:
        ValueError: as in ``score``, or ``bins`` is not positive.
    """
    _check_probabilities("probabilities", probabilities, labels)
    if bins < 1:
        raise ValueError(f"a calibration error over {bins} bins: use at least 1")
    if votes is None:
        votes = np.eye(probabilities.shape[1], dtype=np.float32)[labels]
    confidence, right = _confidence(probabilities, votes)
    _, index, counts = np.unique(_bin(confidence, bins), return_inverse=True, return_counts=True)
    return (
        np.bincount(index, confidence) / counts,
        np.bincount(index, right) / counts,
        counts / len(labels),
    )


def expected_calibration_error(
    probabilities: FloatArray, labels: IntArray, bins: int = BINS, *, votes: FloatArray | None = None
) -> float:
    """Mean distance between confidence and accuracy over the bins of ``reliability``, each as heavy as its share.

    0 is a model that is right in 70 % of the cases in which it is 70 % sure, and so on; 1 is one that is always sure
    and always wrong.

    Raises:
        ValueError: as in ``reliability``.
    """
    confidence, accuracy, share = reliability(probabilities, labels, bins, votes=votes)
    return float(np.sum(share * np.abs(accuracy - confidence)))


def _confidence(probabilities: FloatArray, votes: FloatArray) -> tuple[DoubleArray, DoubleArray]:
    """The probability of the likeliest class, and the share of votes for it: ``[n]`` each."""
    right = np.take_along_axis(votes, probabilities.argmax(1)[:, None], 1)[:, 0]
    # Float32 probabilities may exceed 1 by a rounding error.
    return np.minimum(probabilities.max(1).astype(np.float64), 1.0), right.astype(np.float64)


def _bin(confidence: DoubleArray, bins: int) -> IntArray:
    return np.digitize(confidence, np.linspace(0.0, 1.0, bins + 1)[1:-1], right=True)


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


def equal_error_rate(alike: FloatArray, same: NDArray[np.bool_]) -> tuple[float, float]:
    """The share of pairs that are judged wrongly at the threshold where as large a share of both kinds is, and that.

    Args:
        alike: how alike the two of each pair are ``[n]``.
        same: whether they are the same ``[n]``.

    Raises:
        ValueError: one of the kinds is missing.
    """
    if same.all() or not same.any():
        raise ValueError("an equal error rate needs pairs of the same and pairs of others")
    accepted, found, thresholds = roc_curve(same, alike, drop_intermediate=False)
    missed = 1.0 - found
    at = int(np.argmin(np.abs(accepted - missed)))
    return float((accepted[at] + missed[at]) / 2), float(thresholds[at])


def verify(vectors: FloatArray, people: IntArray) -> tuple[float, float]:
    """Equal error rate over all pairs of vectors ``[n, width]`` of people ``[n]``, and its cosine."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = np.triu_indices(len(vectors), 1)
    return equal_error_rate((vectors[one] * vectors[other]).sum(axis=1), people[one] == people[other])


def redraw(models: Sequence[Scores], draws: int = DRAWS, seed: int = 0) -> dict[str, DoubleArray]:
    """The figures of models on groups that are drawn anew, with replacement; the same groups for all of them.

    One group fewer is drawn than there are, so that the deviation of the draws is that of the figure also where there
    are few groups (Rao and Wu 1988, "Resampling Inference With Complex Survey Data").

    Args:
        models: scored on the same items, in the same groups.
        draws: how many.
        seed: the same one draws the same groups.

    Returns:
        Each of ``MEASURES`` as ``[models, draws]``, and each of ``CLASS_MEASURES`` as ``[models, draws, C]``, not a
        number where the class was not drawn.

    Raises:
        ValueError: there is only one group, or the models were not scored on the same items.
    """
    first = models[0].items
    for other in models[1:]:
        if not (np.array_equal(first.labels, other.items.labels) and np.array_equal(first.groups, other.items.groups)):
            raise ValueError("the models were not scored on the same utterances: score both on the same split")
    groups, classes = first.n_groups, len(models[0].per_class)
    if groups < 2:
        raise ValueError(f"there is one {first.unit} only, and no other to draw: no interval can be given")
    sums = np.concatenate([_sums(model.items, classes) for model in models], axis=1)
    rng = np.random.default_rng(seed)
    parts = []
    at_once = max(1, 2**22 // groups)  # 32 MiB of numbers of draws
    for begun in range(0, draws, at_once):
        drawn = rng.multinomial(groups - 1, np.full(groups, 1 / groups), size=min(at_once, draws - begun))
        totals = (drawn.astype(np.float64) @ sums).reshape(len(drawn), len(models), -1)
        parts.append(_figures(totals.swapaxes(0, 1), classes))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _sums(items: Items, classes: int) -> DoubleArray:
    """For each group what all figures can be counted from, and what adds up over groups: ``[groups, ...]``."""
    width = classes * classes
    sums = np.zeros((items.n_groups, width + BINS + 1))
    np.add.at(sums, (items.groups, items.labels * classes + items.predicted), 1.0)
    np.add.at(sums, (items.groups, width + _bin(items.confidence, BINS)), items.right - items.confidence)
    sums[:, -1] = np.bincount(items.groups, items.log_loss)
    return sums


def _figures(sums: DoubleArray, classes: int) -> dict[str, DoubleArray]:
    """``MEASURES`` ``[...]`` and ``CLASS_MEASURES`` ``[..., C]`` of sums ``[..., what _sums gives]``."""
    width = classes * classes
    confusion = sums[..., :width].reshape(*sums.shape[:-1], classes, classes)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    support, called = confusion.sum(-1), confusion.sum(-2)
    n, there = support.sum(-1), support > 0
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + called, 1)
    of_class = {"precision": hits / np.maximum(called, 1), "recall": recall, "f1": f1}
    return {
        "accuracy": hits.sum(-1) / n,
        "weighted_f1": (f1 * support).sum(-1) / n,
        "macro_f1": (f1 * there).sum(-1) / there.sum(-1),
        "unweighted_recall": recall.sum(-1) / there.sum(-1),
        "ece": np.abs(sums[..., width:-1]).sum(-1) / n,
        "log_loss": sums[..., -1] / n,
    } | {name: np.where(there, values, np.nan) for name, values in of_class.items()}


def interval(draws: DoubleArray, groups: int, about: float | None = None) -> list[float] | None:
    """The interval that holds ``LEVEL`` of the draws ``[draws]``, a little more of them where groups are few.

    As wide as Student's t is wider than the normal distribution (the expanded percentile interval of Hesterberg 2015,
    "What Teachers Should Know About the Bootstrap"). None where no draw has a figure.

    Args:
        draws: of a figure.
        groups: how many there are.
        about: the figure itself, if it is one that chance can only make larger (``Measure.inflated``): the draws are
            then as much above it as it is above the truth, and the interval is reflected at it, as far as 0 (the basic
            bootstrap interval).
    """
    drawn = draws[np.isfinite(draws)]
    if not len(drawn):
        return None
    tail = ndtr(stdtrit(groups - 1, (1 - LEVEL) / 2))
    low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    return [low, high] if about is None else [max(2 * about - high, 0.0), max(2 * about - low, about)]


def p_value(differences: DoubleArray, groups: int) -> float:
    """How often a difference at least as clear would come by chance if there were none: two-sided, from its draws.

    Below 1 - ``LEVEL`` where the ``interval`` leaves out 0.
    """
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    share = (1 + rarer) / (1 + len(differences))
    return float(min(1.0, 2 * stdtr(groups - 1, ndtri(min(share, 0.5)))))


def summarise(seeds: Mapping[int, Scores]) -> dict[str, Any]:
    """Figures of several trainings that differ in their seed alone, ready for JSON.

    Returns:
        A dictionary::

            {
              "accuracy": {"mean": 0.61, "std": 0.01, "interval": [0.58, 0.64], "seeds": {"1": 0.60, ...}},
              "weighted_f1": ..., "macro_f1": ..., "unweighted_recall": ..., "ece": ..., "log_loss": ...,    the same
              "per_class": {"joy": {"precision": {"mean": 0.5, "std": 0.02, "interval": [0.4, 0.6]}, "recall": ...,
                            "f1": ..., "support": 163}, ...},
              "confusion": {"labels": ["neutral", ...], "sum": [[...]]},     utterances of all seeds; rows are true
              "n": 1109,                                             utterances of one seed
              "groups": {"unit": "dialogue", "n": 114}               which were drawn for the intervals
            }

        ``std`` is the sample deviation over the seeds (n - 1 in the denominator), and None with one seed.
        ``interval`` is that of the mean over the seeds if other groups had been met, and None with one group.

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
    groups = first.items.n_groups
    drawn = redraw(list(seeds.values())) if groups > 1 else {}

    def over_seeds(values: Sequence[float], draws: DoubleArray | None, inflated: bool = False) -> dict[str, Any]:
        mean = float(np.mean(values))
        return {
            "mean": mean,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "interval": None if draws is None else interval(draws.mean(0), groups, mean if inflated else None),
        }

    summary: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        values = {str(seed): getattr(scores, name) for seed, scores in seeds.items()}
        figure = over_seeds(list(values.values()), drawn.get(name), measure.inflated)
        summary[name] = figure | {"seeds": values}
    summary["per_class"] = {
        name: {
            m: over_seeds(
                [getattr(s.per_class[name], m) for s in seeds.values()], drawn[m][..., number] if drawn else None
            )
            for m in CLASS_MEASURES
        }
        | {"support": support}
        for number, (name, support) in enumerate(supports.items())
    }
    summary["confusion"] = {
        "labels": list(supports),
        "sum": np.sum([scores.confusion for scores in seeds.values()], axis=0).tolist(),
    }
    summary["n"] = first.n
    summary["groups"] = {"unit": first.items.unit, "n": groups}
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


def _check_probabilities(what: str, probabilities: FloatArray, labels: IntArray) -> None:
    _check(what, probabilities, labels)
    sums = probabilities.sum(1, dtype=np.float64)
    wrong = np.flatnonzero((np.abs(sums - 1) > SUM_TOLERANCE) | (probabilities < 0).any(1))
    if len(wrong):
        raise ValueError(
            f"row {wrong[0]} of the {what} sums to {sums[wrong[0]]:.4g} with least value "
            f"{probabilities[wrong[0]].min():.4g}: give probabilities, such as the softmax of the logits"
        )
