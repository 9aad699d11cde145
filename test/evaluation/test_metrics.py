from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from synctva_ros.evaluation import metrics
from synctva_ros.evaluation.metrics import (
    CLASS_MEASURES,
    MEASURES,
    TEMPERATURES,
    ClassScore,
    IntArray,
    equal_error_rate,
    expected_calibration_error,
    fit_temperature,
    interval,
    p_value,
    redraw,
    reliability,
    score,
    summarise,
    verify,
)
from synctva_ros.events import FloatArray

Sample = tuple[FloatArray, IntArray]
NAMES = ("calm", "glad", "cross")
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.6, 0.4, 0.0], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]], np.float32)
LABELS = np.array([0, 1, 1, 1])


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Logits ``[n, C]`` of up to 60 utterances, from undecided to certain, and labels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, classes = draw(st.integers(1, 60)), draw(st.integers(2, 8))
    sharpness = draw(st.sampled_from([0.0, 0.5, 3.0, 30.0]))
    return (sharpness * rng.normal(size=(n, classes))).astype(np.float32), rng.integers(0, classes, n)


def names(probabilities: FloatArray) -> list[str]:
    return [f"class {i}" for i in range(probabilities.shape[1])]


def test_score_by_hand() -> None:
    scores = score(PROBABILITIES, LABELS, NAMES)
    assert scores.accuracy == 0.75
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert scores.per_class == {
        "calm": ClassScore(precision=0.5, recall=1.0, f1=pytest.approx(2 / 3), support=1),
        "glad": ClassScore(precision=1.0, recall=pytest.approx(2 / 3), f1=pytest.approx(0.8), support=3),
        "cross": ClassScore(precision=0.0, recall=0.0, f1=0.0, support=0),
    }
    assert scores.weighted_f1 == pytest.approx((2 / 3 + 3 * 0.8) / 4)
    assert scores.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2), "a class without utterances is left out"
    assert scores.unweighted_recall == pytest.approx((1 + 2 / 3) / 2)
    assert scores.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.7) + math.log(0.6)) / 4)
    assert scores.n == 4


def test_a_class_that_is_only_predicted_is_not_in_macro_f1() -> None:
    scores = score(np.eye(3, dtype=np.float32)[[0, 1, 2]], np.array([0, 1, 1]), NAMES)
    assert scores.per_class["cross"].f1 == 0.0
    assert scores.macro_f1 == pytest.approx((1 + 2 / 3) / 2)


def test_reliability_by_hand() -> None:
    # 0.6 twice (one of them right), 0.7 and 0.8; as float32, 0.8 is just above the edge.
    confidence, accuracy, share = reliability(PROBABILITIES, LABELS, bins=5)
    assert confidence == pytest.approx([(0.6 + 0.6 + 0.7) / 3, 0.8])
    assert accuracy == pytest.approx([2 / 3, 1.0])
    assert share == pytest.approx([0.75, 0.25])
    confidence, accuracy, share = reliability(PROBABILITIES, LABELS, bins=20)
    assert confidence == pytest.approx([0.6, 0.7, 0.8])
    assert accuracy == pytest.approx([0.5, 1.0, 1.0])
    assert share == pytest.approx([0.5, 0.25, 0.25])
    assert expected_calibration_error(PROBABILITIES, LABELS, bins=20) == pytest.approx(0.05 + 0.075 + 0.05)


def test_confidence_on_an_edge_is_in_the_lower_bin() -> None:
    edge = np.array([[0.5, 0.5], [0.5, 0.5], [0.375, 0.625]])
    confidence, _, share = reliability(edge, np.array([0, 0, 1]), bins=2)
    assert confidence.tolist() == [0.5, 0.625]
    assert share == pytest.approx([2 / 3, 1 / 3])


def test_calibration_error_of_the_worst_model_is_one() -> None:
    sure = np.array([[1.0005, 0.0], [1.0, 0.0]], np.float32)  # a rounding error above 1
    assert expected_calibration_error(sure, np.array([1, 1])) == 1.0


@given(samples())
def test_measures_are_between_zero_and_one(sample: Sample) -> None:
    probabilities, labels = softmax(sample[0], axis=1), sample[1]
    scores = score(probabilities, labels, names(probabilities))
    for value in (scores.accuracy, scores.weighted_f1, scores.macro_f1, scores.unweighted_recall, scores.ece):
        assert 0 <= value <= 1
    assert scores.log_loss >= 0
    confidence, accuracy, share = reliability(probabilities, labels)
    assert len(confidence) == len(accuracy) == len(share) <= 15
    assert (np.diff(confidence) > 0).all()
    assert share.sum() == pytest.approx(1)
    assert share @ accuracy == pytest.approx(scores.accuracy)
    assert share @ confidence == pytest.approx(probabilities.max(1).mean(), rel=1e-5)


@given(samples())
def test_agrees_with_sklearn(sample: Sample) -> None:
    probabilities, labels = softmax(sample[0], axis=1), sample[1]
    scores, predicted = score(probabilities, labels, names(probabilities)), probabilities.argmax(1)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.weighted_f1 == pytest.approx(f1_score(labels, predicted, average="weighted", zero_division=0))
    macro = f1_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert scores.macro_f1 == pytest.approx(macro)
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro", zero_division=0)
    assert scores.unweighted_recall == pytest.approx(recall)
    if len(np.unique(labels)) > 1:  # scikit-learn has no log loss of one class
        exact = np.maximum(probabilities.astype(np.float64), np.finfo(np.float64).eps)
        loss = log_loss(labels, exact / exact.sum(1, keepdims=True), labels=range(probabilities.shape[1]))
        assert scores.log_loss == pytest.approx(loss, rel=1e-4)
    assert scores.confusion.sum() == scores.n == len(labels)
    assert scores.confusion.sum(1).tolist() == [c.support for c in scores.per_class.values()]


@given(samples(), st.integers(0, 2**32 - 1))
def test_what_is_drawn_is_counted_as_scikit_learn_counts(sample: Sample, seed: int) -> None:
    """Sums over all groups, each as often as it was drawn, against the scores of the items themselves."""
    probabilities, labels = softmax(sample[0], axis=1), sample[1]
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 5, len(labels))
    scores = score(probabilities, labels, names(probabilities), groups=groups.tolist())
    times = rng.integers(0, 3, scores.items.n_groups)
    times[0] = 1  # one of them at least
    rows = np.repeat(np.arange(len(labels)), times[scores.items.groups])
    wanted = score(probabilities[rows], labels[rows], names(probabilities))
    classes = probabilities.shape[1]
    found = metrics._figures(times @ metrics._sums(scores.items, classes), classes)
    for measure in MEASURES:
        assert found[measure] == pytest.approx(getattr(wanted, measure), abs=1e-9), measure
    for i, of_class in enumerate(wanted.per_class.values()):
        for measure in CLASS_MEASURES:
            value = getattr(of_class, measure) if of_class.support else math.nan
            assert found[measure][i] == pytest.approx(value, nan_ok=True), measure


@given(st.lists(st.integers(0, 6), min_size=1))
def test_one_hot_truth_is_perfect(labels: list[int]) -> None:
    scores = score(np.eye(7, dtype=np.float32)[labels], np.array(labels), [*"abcdefg"])
    assert (scores.accuracy, scores.weighted_f1, scores.macro_f1, scores.ece) == (1, 1, 1, 0)


@given(samples(), st.randoms(use_true_random=False))
def test_order_of_the_utterances_does_not_matter(sample: Sample, random: object) -> None:
    logits, labels = sample
    order = list(range(len(labels)))
    random.shuffle(order)
    probabilities = softmax(logits, axis=1)
    one = score(probabilities, labels, names(probabilities))
    other = score(probabilities[order], labels[order], names(probabilities))
    for measure in MEASURES:
        assert getattr(one, measure) == pytest.approx(getattr(other, measure), abs=1e-12)
    assert (one.per_class, one.confusion.tolist()) == (other.per_class, other.confusion.tolist())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.25, 4.0))
def test_temperature_scales_with_the_logits(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(200, 4))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from the softmax, so 1 is about right
    temperature = fit_temperature(logits, labels)
    assert 0.5 < temperature < 2
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * temperature, rel=1e-3)


@settings(deadline=None)
@given(samples())
def test_no_other_temperature_has_less_log_loss(sample: Sample) -> None:
    logits, labels = sample[0].astype(np.float64), sample[1]

    def loss(temperature: float) -> float:
        return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()

    least = loss(fit_temperature(logits, labels))
    for other in np.geomspace(*TEMPERATURES, 30):
        # The search stops a little before the bounds.
        assert least <= loss(other) * (1 + 1e-3) + 1e-9


def test_temperature_by_hand() -> None:
    # Right in 3 of 4: the best probability is 3/4, so 2/T = log 3.
    logits = np.array([[2.0, 0.0]] * 4, np.float32)
    temperature = fit_temperature(logits, np.array([0, 0, 0, 1]))
    assert temperature == pytest.approx(2 / math.log(3), rel=1e-4)
    scaled = softmax(logits / temperature, axis=1)
    assert log_loss([0, 0, 0, 1], scaled) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_temperature_of_faultless_logits_is_the_least() -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(TEMPERATURES[0], rel=0.01)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(TEMPERATURES[1], rel=0.01)


def test_summary_of_two_seeds() -> None:
    other = np.eye(3, dtype=np.float32)[[0, 1, 1, 1]]
    groups = dict(groups=[*"aabb"], unit="dialogue")
    summary = summarise({1: score(PROBABILITIES, LABELS, NAMES, **groups), 7: score(other, LABELS, NAMES, **groups)})
    assert json.loads(json.dumps(summary)) == summary
    accuracy = summary["accuracy"]
    assert accuracy.pop("interval")[0] <= 0.875
    error = summary["ece"]
    assert error["interval"][0] <= error["mean"] <= error["interval"][1]
    assert accuracy == {"mean": 0.875, "std": pytest.approx(0.25 / math.sqrt(2)), "seeds": {"1": 0.75, "7": 1.0}}
    assert list(summary) == [*MEASURES, "per_class", "confusion", "n", "groups"]
    precision = summary["per_class"]["calm"]["precision"]
    assert (precision["mean"], precision["std"]) == (0.75, pytest.approx(0.5 / math.sqrt(2)))
    assert [c["support"] for c in summary["per_class"].values()] == [1, 3, 0]
    assert summary["per_class"]["cross"]["f1"]["interval"] is None, "nothing is known of a class that does not occur"
    assert summary["confusion"] == {"labels": list(NAMES), "sum": [[2, 0, 0], [1, 5, 0], [0, 0, 0]]}
    assert summary["n"] == 4
    assert summary["groups"] == {"unit": "dialogue", "n": 2}


def test_summary_of_one_seed_has_no_deviation() -> None:
    summary = summarise({3: score(PROBABILITIES, LABELS, NAMES)})
    assert summary["weighted_f1"]["std"] is None
    assert summary["per_class"]["glad"]["f1"]["std"] is None
    assert "±" not in MEASURES["weighted_f1"].shown(summary["weighted_f1"])
    assert MEASURES["accuracy"].shown({"mean": 0.61, "std": 0.005, "interval": [0.58, 0.64]}) == (
        "61.0 ± 0.5 (58.0 to 64.0)"
    )
    assert MEASURES["log_loss"].shown({"mean": 1.25, "std": None, "interval": None}) == "1.250"


def test_one_group_has_no_interval() -> None:
    summary = summarise({1: score(PROBABILITIES, LABELS, NAMES, groups=[*"aaaa"], unit="person")})
    assert summary["groups"] == {"unit": "person", "n": 1}
    assert summary["accuracy"]["interval"] is None
    assert summary["per_class"]["calm"]["f1"]["interval"] is None
    with pytest.raises(ValueError, match="there is one person only"):
        redraw([score(PROBABILITIES, LABELS, NAMES, groups=[*"aaaa"], unit="person")])


def dialogues(
    rng: np.random.Generator, count: int, skill: float = 1.2, share: float = 1.0
) -> tuple[FloatArray, IntArray, list[int]]:
    """Probabilities, labels and groups of dialogues of about 9 utterances, whose mistakes they have in common."""
    groups = np.repeat(np.arange(count), rng.poisson(8, count) + 1)
    labels = np.where(rng.random(len(groups)) < 0.45, 0, rng.integers(0, 4, len(groups)))
    common = rng.normal(0, share, (count, 4))[groups]
    logits = skill * np.eye(4)[labels] + common + rng.normal(0, 1, (len(groups), 4))
    return softmax(logits, axis=1).astype(np.float32), labels, groups.tolist()


@pytest.mark.parametrize("count", [12, 60])
def test_the_interval_holds_the_truth_as_often_as_it_says(count: int) -> None:
    """Those over dialogues do; those over utterances, as if these had nothing in common, are too narrow."""
    rng = np.random.default_rng(count)
    probabilities, labels, _ = dialogues(rng, 20_000)
    truth = score(probabilities, labels, "abcd")
    held = {"dialogue": 0, "utterance": 0}
    worlds = 200
    for _ in range(worlds):
        probabilities, labels, groups = dialogues(rng, count)
        for unit, of in (("dialogue", groups), ("utterance", None)):
            scores = score(probabilities, labels, "abcd", groups=of)
            low, high = interval(redraw([scores], 300)["weighted_f1"][0], scores.items.n_groups)
            held[unit] += low <= truth.weighted_f1 <= high
    assert 0.91 <= held["dialogue"] / worlds <= 0.99
    assert held["utterance"] / worlds < 0.91


def test_chance_makes_a_calibration_error_larger_and_its_interval_knows() -> None:
    """A network that is well calibrated: of 30 dialogues one still counts an error, and the draws a larger one."""
    rng = np.random.default_rng(5)
    held = plain = 0
    for _ in range(100):
        logits, groups = 1.5 * rng.normal(size=(300, 4)), list(np.repeat(np.arange(30), 10))
        labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn from the softmax: the error is 0
        scores = score(softmax(logits, axis=1).astype(np.float32), labels, "abcd", groups=groups)
        assert scores.ece > 0.01
        draws = redraw([scores], 200)["ece"][0]
        low, high = interval(draws, 30, scores.ece)
        assert 0 <= low <= scores.ece <= high
        held += low <= 0.005
        plain += interval(draws, 30)[0] <= 0.005
    assert held >= 50, "of figures on the very edge of what is possible"
    assert plain < 10


def test_draws_are_the_same_for_the_same_seed() -> None:
    scores = score(*dialogues(np.random.default_rng(0), 30)[:2], "abcd")
    one, same, other = (redraw([scores], 50, seed)["accuracy"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_all_models_get_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where not all draws fit at once."""
    probabilities, labels, groups = dialogues(np.random.default_rng(0), 30)
    scores = score(probabilities, labels, "abcd", groups=groups)
    drawn = redraw([scores, scores], 40)
    for name, values in drawn.items():
        np.testing.assert_array_equal(values[0], values[1], name)
    assert drawn["accuracy"].shape == (2, 40)
    assert drawn["f1"].shape == (2, 40, 4)
    with pytest.raises(ValueError, match="not scored on the same utterances"):
        redraw([scores, score(probabilities, labels, "abcd")])


def test_p_value_and_interval_say_the_same() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.5, 1.5, 1.9, 2.1, 3.0, -1.9, -2.1):
        draws = rng.normal(shift, 1, 20_000)
        for groups in (10, 1000):
            low, high = interval(draws, groups)
            assert (p_value(draws, groups) < 0.05) == (not low <= 0 <= high), (shift, groups)
    assert p_value(np.zeros(100), 20) == 1.0
    assert p_value(rng.normal(2.1, 1, 20_000), 1000) < 0.05 < p_value(rng.normal(2.1, 1, 20_000), 10)


def test_votes_are_soft_labels() -> None:
    """Of two people who disagree, each is half right."""
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25]], np.float32)
    votes = np.array([[0.5, 0.5], [0.5, 0.5]], np.float32)
    hard = score(probabilities, np.array([0, 0]), "ab")
    soft = score(probabilities, np.array([0, 0]), "ab", votes=votes)
    assert (hard.accuracy, soft.accuracy) == (1, 1)
    assert hard.ece == pytest.approx((0.5 + 0.25) / 2)
    assert soft.ece == pytest.approx((0 + 0.25) / 2)
    assert soft.log_loss == pytest.approx(-(math.log(0.5) + (math.log(0.75) + math.log(0.25)) / 2) / 2)
    assert redraw([soft], 5)["ece"].max() <= 0.25
    for wrong, reason in ((votes[:1], r"votes of shape \[1, 2\]"), (2 * votes, "row 0 of the votes sums to 2")):
        with pytest.raises(ValueError, match=reason):
            score(probabilities, np.array([0, 0]), "ab", votes=wrong)
    with pytest.raises(ValueError, match="1 groups for 2 utterances: name the person of each"):
        score(probabilities, np.array([0, 0]), "ab", groups=["x"], unit="person")


def test_seeds_that_cannot_be_compared_are_refused() -> None:
    one = score(PROBABILITIES, LABELS, NAMES)
    with pytest.raises(ValueError, match="no seeds"):
        summarise({})
    for other in (
        score(PROBABILITIES, np.array([0, 1, 1, 2]), NAMES),
        score(PROBABILITIES, LABELS, ("calm", "glad", "sad")),
        score(PROBABILITIES[:, [1, 0, 2]], np.array([1, 0, 0, 0]), ("glad", "calm", "cross")),
    ):
        with pytest.raises(ValueError, match="seeds 1 and 2 differ"):
            summarise({1: one, 2: other})


@pytest.mark.parametrize(
    ("probabilities", "labels", "reason"),
    [
        (np.ones(4), LABELS, r"shape \[4\]"),
        (PROBABILITIES, LABELS[:3], r"shape \[4, 3\] for labels of shape \[3\]"),
        (PROBABILITIES, LABELS[:, None], r"labels of shape \[4, 1\]"),
        (PROBABILITIES[:0], LABELS[:0], "without utterances"),
        (np.where(np.eye(4, 3) > 0, np.nan, PROBABILITIES), LABELS, "utterance 0 are not finite"),
        (PROBABILITIES, np.array([0, 1, 3, 1]), "label 3 of utterance 2 is none of 0 to 2"),
        (PROBABILITIES, np.array([0, -1, 2, 1]), "label -1 of utterance 1"),
        (PROBABILITIES, LABELS.astype(np.float32), "labels of type float32"),
    ],
)
def test_bad_input_is_refused(probabilities: NDArray[np.float64], labels: IntArray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        score(probabilities, labels, NAMES)
    with pytest.raises(ValueError, match=reason):
        expected_calibration_error(probabilities, labels)
    with pytest.raises(ValueError, match=reason):
        fit_temperature(probabilities, labels)


@pytest.mark.parametrize("row", [[0.5, 0.4, 0.0], [3.0, 0.0, 1.0], [1.2, -0.2, 0.0]])
def test_what_are_no_probabilities_is_refused(row: list[float]) -> None:
    probabilities = PROBABILITIES.copy()
    probabilities[2] = row
    for measure in (lambda: score(probabilities, LABELS, NAMES), lambda: reliability(probabilities, LABELS)):
        with pytest.raises(ValueError, match="row 2 of the probabilities"):
            measure()


def test_names_and_bins_that_do_not_fit_are_refused() -> None:
    for names in (("calm", "glad"), ("calm", "glad", "glad")):
        with pytest.raises(ValueError, match="do not fit probabilities of 3 classes"):
            score(PROBABILITIES, LABELS, names)
    with pytest.raises(ValueError, match="0 bins"):
        reliability(PROBABILITIES, LABELS, bins=0)


def test_equal_error_rate_by_hand() -> None:
    alike = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1], np.float32)
    same = np.array([True, True, False, True, False, False])
    # At a threshold between 0.7 and 0.6 one of three is missed and one of three wrongly accepted.
    assert equal_error_rate(alike, same) == (pytest.approx(1 / 3), pytest.approx(0.7))
    assert equal_error_rate(alike, alike > 0.5) == (0.0, pytest.approx(0.6))
    assert equal_error_rate(-alike, alike > 0.5)[0] == pytest.approx(1.0, abs=0.2)
    with pytest.raises(ValueError, match="needs pairs of the same and pairs of others"):
        equal_error_rate(alike, np.ones(6, bool))


@given(seed=st.integers(0, 1000))
def test_equal_error_rate_of_chance_is_a_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(4000) % 4 == 0)
    assert equal_error_rate(rng.random(4000, np.float32), same)[0] == pytest.approx(0.5, abs=0.07)


def test_pairs_are_verified() -> None:
    people = np.array([0, 0, 1, 1])
    apart = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert verify(apart, people) == (0.0, 1.0)
    assert verify(apart[[0, 2, 1, 3]], people)[0] >= 0.5
