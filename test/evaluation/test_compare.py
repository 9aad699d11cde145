"""Whether two runs differ: known differences are found, chance is not taken for one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from synctva_ros.apps import cli
from synctva_ros.evaluation import compare as module
from synctva_ros.evaluation.compare import compare, difference, in_words
from synctva_ros.evaluation.metrics import MEASURES, Scores, score
from synctva_ros.evaluation.predictions import Predictions, read_predictions, write_figures

NAMES = ("neutral", "joy", "sadness", "anger")


def world(rng: np.random.Generator, count: int, skills: list[float], own: float = 0.5) -> Predictions:
    """What networks of these skills (seeds 0, 1, ...) say of the same dialogues; ``own``: how far each is by itself."""
    groups = np.repeat(np.arange(count), rng.poisson(8, count) + 1)
    labels = np.where(rng.random(len(groups)) < 0.45, 0, rng.integers(0, 4, len(groups)))
    common = rng.normal(0, 1, (count, 4))[groups] + rng.normal(0, 1, (len(groups), 4))
    probabilities = {
        seed: softmax(skill * np.eye(4)[labels] + common + rng.normal(0, own, common.shape), axis=1).astype(np.float32)
        for seed, skill in enumerate(skills)
    }
    items = tuple(f"d{group}/{number}" for number, group in enumerate(groups))
    return Predictions(NAMES, items, tuple(f"d{group}" for group in groups), "dialogue", labels, probabilities)


def runs(said: Predictions, seeds: int) -> tuple[list[Scores], list[Scores]]:
    """The first so many seeds as one run, the others as the other."""
    scores = list(said.scores().values())
    return scores[:seeds], scores[seeds:]


def test_a_known_difference_is_found_and_none_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between equal networks a difference is seen in about one of twenty worlds, as the p value promises."""
    monkeypatch.setattr(module, "DRAWS", 1000)
    rng = np.random.default_rng(0)
    found = {1.2: 0, 1.8: 0}
    worlds = 100
    for _ in range(worlds):
        for skill in found:
            one, other = runs(world(rng, 60, [skill, 1.2]), 1)
            figure = difference(one, other)["measures"]["weighted_f1"]
            assert (figure["p"] < 0.05) == (not figure["interval"][0] <= 0 <= figure["interval"][1])
            found[skill] += figure["p"] < 0.05
    assert found[1.2] <= 11
    assert found[1.8] >= 95


def test_the_interval_of_the_difference_holds_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAWS", 1000)
    rng = np.random.default_rng(1)
    one, other = runs(world(rng, 20_000, [1.5, 1.2]), 1)
    truth = one[0].weighted_f1 - other[0].weighted_f1
    held = 0
    for _ in range(100):
        low, high = difference(*runs(world(rng, 40, [1.5, 1.2]), 1))["measures"]["weighted_f1"]["interval"]
        held += low <= truth <= high
    assert held >= 89


def test_pairs_tell_more_than_two_intervals() -> None:
    """Both find the same dialogues hard: the difference is known better than either figure."""
    said = world(np.random.default_rng(2), 60, [1.4, 1.2], own=0.1)
    one, other = runs(said, 1)
    paired = difference(one, other)["measures"]["weighted_f1"]["interval"]
    rng = np.random.default_rng(3)
    order = rng.permutation(60)
    rows = np.concatenate([np.flatnonzero(one[0].items.groups == group) for group in order])
    shuffled = replace(said, probabilities={0: said.probabilities[1][rows]}, labels=said.labels[rows])
    strangers = [score(shuffled.probabilities[0], said.labels, NAMES, groups=said.groups, unit="dialogue")]
    unpaired = difference(one, strangers)["measures"]["weighted_f1"]["interval"]
    assert paired[1] - paired[0] < 0.6 * (unpaired[1] - unpaired[0])


def test_dialogues_matter() -> None:
    """The same answers, as if each utterance were alone: surer than one can be."""
    rng = np.random.default_rng(4)
    said = world(rng, 30, [1.2, 1.2])
    better = rng.random(30) < 0.5  # the first network knows what is said in half of the dialogues
    rows = better[[int(group[1:]) for group in said.groups]]
    said.probabilities[0][rows] = np.eye(4, dtype=np.float32)[said.labels[rows]]
    widths = []
    for groups in (said.groups, said.items):
        low, high = difference(*runs(replace(said, groups=groups), 1))["measures"]["accuracy"]["interval"]
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1]


def test_seeds_that_vary_make_the_difference_less_sure() -> None:
    rng = np.random.default_rng(5)
    steady = difference(*runs(world(rng, 60, [1.2] * 6, own=0.1), 3))["measures"]["weighted_f1"]["interval"]
    varying = world(rng, 60, [0.6, 1.2, 1.8, 0.6, 1.2, 1.8], own=0.1)
    loose = difference(*runs(varying, 3))["measures"]["weighted_f1"]["interval"]
    assert loose[1] - loose[0] > 3 * (steady[1] - steady[0])
    # Which seed has which number says nothing.
    other = replace(
        varying, probabilities={seed: varying.probabilities[n] for seed, n in enumerate((2, 0, 1, 3, 4, 5))}
    )
    again = difference(*runs(other, 3))["measures"]["weighted_f1"]["interval"]
    assert again == pytest.approx(loose, abs=0.01)


def test_it_is_the_same_each_time() -> None:
    said = world(np.random.default_rng(6), 20, [1.2, 1.3, 1.4])
    assert difference(*runs(said, 1)) == difference(*runs(said, 1))


def files(folder: Path, said: Predictions, seeds: int = 1) -> tuple[Path, Path]:
    """The first so many seeds, and the others, as two files that ``evaluate --json`` would write."""
    (folder / "b").mkdir()
    paths = folder / "a.json", folder / "b" / "b.json"
    for path, mine in zip(paths, (range(seeds), range(seeds, len(said.probabilities))), strict=True):
        write_figures(
            {"n": len(said.items)}, replace(said, probabilities={s: said.probabilities[s] for s in mine}), path
        )
    return paths


def test_what_is_written_is_read(tmp_path: Path) -> None:
    said = world(np.random.default_rng(7), 5, [1.2, 1.2])
    said.probabilities[1][3] = said.probabilities[0][3] = np.nan
    write_figures({"accuracy": {"mean": 0.5}, "n": 3}, said, tmp_path / "new" / "s.json")
    written = json.loads((tmp_path / "new" / "s.json").read_text())
    assert written["accuracy"] == {"mean": 0.5}
    assert written["predictions"]["items"][3]["probabilities"] is None
    read = read_predictions(tmp_path / "new" / "s.json")
    for name in ("names", "items", "groups", "unit"):
        assert getattr(read, name) == getattr(said, name)
    assert read.labels.tolist() == said.labels.tolist()
    for seed, probabilities in said.probabilities.items():
        np.testing.assert_allclose(read.probabilities[seed], probabilities, atol=1e-6)
    assert read.silent
    lines = (tmp_path / "new" / "s.json").read_text().splitlines()
    assert sum('"item":' in line for line in lines) == len(said.items), "a line for each"


def test_the_command_says_which_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = files(tmp_path, world(np.random.default_rng(8), 80, [1.2, 1.2, 2.0]), seeds=2)
    assert cli.main(["compare", str(a), str(b), "--json", str(tmp_path / "new" / "c.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "new" / "c.json").read_text())
    assert found == compare(a, b)
    figure = found["measures"]["weighted_f1"]
    assert figure["difference"] == pytest.approx(figure["a"] - figure["b"])
    assert found["sentence"].startswith(
        f"{b} is better than {a} by {-100 * figure['difference']:.1f} points of weighted F1"
    )
    low, high = figure["interval"]
    assert f"(95 % interval {-100 * high:.1f} to {-100 * low:.1f}, p < 0.001)" in found["sentence"]
    assert found["sentence"].endswith("another seed may differ by as much.")
    assert printed.endswith(found["sentence"] + "\n")
    assert f"A: {a} (2 seeds)" in printed
    assert f"B: {b} (1 seed)" in printed
    assert "in 80 dialogues, which were drawn for the intervals" in printed
    for measure in MEASURES.values():
        assert measure.title in printed


def test_no_difference_is_said_so(tmp_path: Path) -> None:
    a, _ = files(tmp_path, world(np.random.default_rng(9), 30, [1.2, 1.2]))
    found = compare(a, a)
    assert found["sentence"].startswith(
        f"No difference in weighted F1 can be seen between {a} and {a}: it is +0.0 points (95 % interval 0.0 to 0.0, "
        "p = 1.000)."
    )


def test_of_one_person_nothing_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = world(np.random.default_rng(10), 30, [1.2, 2.0])
    a, b = files(tmp_path, replace(said, groups=("one",) * len(said.items), unit="person"))
    found = compare(a, b)
    assert found["measures"]["accuracy"]["interval"] is None
    assert found["sentence"] == "There is one person only, so nothing can be said of others: compare on more persons."
    assert cli.main(["compare", str(a), str(b)]) == 0
    assert "1 person" in capsys.readouterr().out


def test_without_an_answer_there_is_no_confidence(tmp_path: Path) -> None:
    """What has no answer is wrong in both, and has no calibration."""
    said = world(np.random.default_rng(11), 30, [1.2, 1.2])
    said.probabilities[1][:50] = np.nan
    a, b = files(tmp_path, replace(said, unit="file"))
    found = compare(a, b)
    assert set(found["measures"]) == set(MEASURES) - {"ece", "log_loss"}
    right = (said.probabilities[1][50:].argmax(1) == said.labels[50:]).sum()
    assert found["measures"]["accuracy"]["b"] == pytest.approx(right / len(said.items))
    assert "seed" not in found["sentence"]


def test_in_words_each_way() -> None:
    figure = {"difference": 0.012, "interval": [0.003, 0.021], "p": 0.012}
    found = {"measures": {"weighted_f1": figure}, "groups": {"unit": "dialogue", "n": 9}, "seeds": [3, 3]}
    wanted = "X is better than Y by 1.2 points of weighted F1 (95 % interval 0.3 to 2.1, p = 0.012)."
    assert in_words(found, "X", "Y") == wanted
    figure |= {"difference": -0.012, "interval": [-0.021, -0.003]}
    assert in_words(found, "Y", "X") == wanted
    figure |= {"difference": -0.003, "interval": [-0.021, 0.008], "p": 0.2}
    assert in_words(found, "X", "Y") == (
        "No difference in weighted F1 can be seen between X and Y: it is -0.3 points (95 % interval -2.1 to 0.8, "
        "p = 0.200)."
    )


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    said = world(np.random.default_rng(12), 6, [1.2, 1.2])
    a, b = files(tmp_path, said)
    for changed, reason in (
        (replace(said, names=("x", *NAMES[1:])), "has the classes neutral, joy.*they cannot be compared"),
        (replace(said, items=("other", *said.items[1:])), r"a\.json lacks 1 item of the other, such as other"),
        (replace(said, labels=(said.labels + 1) % 4), r"differ in order, label or dialogue of d0/0"),
        (replace(said, groups=("d9", *said.groups[1:])), r"differ in order, label or dialogue of d0/0"),
    ):
        write_figures({}, changed, b)
        with pytest.raises(ValueError, match=reason):
            compare(a, b)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"predictions": {}}',
        b'{"predictions": {"labels": ["a", "b"], "seeds": [1], "unit": "file", "items": []}}',
        b'{"predictions": {"labels": ["a", "b"], "seeds": [1], "unit": "file", "items": '
        b'[{"item": "x", "group": "x", "label": "c", "probabilities": [[1, 0]]}]}}',
        b'{"predictions": {"labels": ["a", "b"], "seeds": [1, 2], "unit": "file", "items": '
        b'[{"item": "x", "group": "x", "label": "a", "probabilities": [[1, 0]]}]}}',
    ],
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"x\.json: there are no predictions in it .*give what synctva evaluate --json"
    ):
        read_predictions(tmp_path / "x.json")


def test_a_run_folder_says_how_to_make_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", str(tmp_path), str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "has no valid.json, which synctva train writes in the end: give such a folder, or the file that" in said
    assert cli.main(["compare", str(tmp_path / "x.json"), str(tmp_path)]) == 1
    assert "x.json: there is no such file" in capsys.readouterr().err
