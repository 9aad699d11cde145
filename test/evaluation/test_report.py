from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.special import softmax

from synctva_ros.evaluation.metrics import (
    CHOSEN_HERE,
    CLASS_MEASURES,
    MEASURES,
    Measure,
    score,
    summarise,
)
from synctva_ros.evaluation.report import DARK, LIGHT, ReportData, write_report

NAMES = ("neutral", "joy", "<anger> & $rage$")
GROUPS = [number % 12 for number in range(60)]
VOID = {"img", "meta", "source"}
CURVES = {
    1: {"train_loss": [2.0, 1.5, 1.2], "valid_loss": [2.1, 1.8, 1.9], "valid_weighted_f1": [0.2, 0.5, 0.4]},
    4: {"train_loss": [2.0, 1.4], "valid_loss": [2.2, 1.7], "valid_weighted_f1": [0.3, 0.4], "chosen_epoch": [2.0]},
}


def make_data(*seeds: int) -> ReportData:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], (40, 15, 5))
    probabilities = {
        seed: softmax(rng.normal(size=(60, 3)) + 2 * np.eye(3)[labels], axis=1).astype(np.float32) for seed in seeds
    }
    return ReportData(
        title="model <a> on corpus",
        subtitle="2 seeds & context",
        names=NAMES,
        summary=summarise(
            {seed: score(p, labels, NAMES, groups=GROUPS, unit="dialogue") for seed, p in probabilities.items()}
        ),
        probabilities=probabilities,
        labels=labels,
        curves={seed: CURVES[seed] for seed in seeds},
        notes=("First <note>.", "Second."),
    )


class Page(HTMLParser):
    """Reads a page; fails where a tag is closed that is not the open one."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []
        pictures = [a.get("src") or a.get("srcset") for tag, a in self.tags if tag in ("img", "source")]
        assert all(picture.startswith("data:image/svg+xml;base64,") for picture in pictures)
        self.plots = [base64.b64decode(picture.partition(",")[2]).decode() for picture in pictures]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


def read(data: ReportData, folder: Path) -> Page:
    write_report(data, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read(make_data(1, 4), tmp_path_factory.mktemp("report") / "new" / "deeper")


def test_page_holds_the_figures(page: Page) -> None:
    data = make_data(1, 4)
    for text in ("model <a> on corpus", "2 seeds & context", "First <note>.", "Second.", "60 utterances"):
        assert text in page.text
    for name, measure in MEASURES.items():
        assert shown(measure, data.summary[name]) in page.cells
        for value in data.summary[name]["seeds"].values():
            assert measure.number(value) in page.cells
    for name in NAMES:
        row = page.cells.index(name)
        of_class = data.summary["per_class"][name]
        assert page.cells[row + 1 : row + 4] == [shown(measure, of_class[m]) for m, measure in CLASS_MEASURES.items()]
        assert page.cells[row + 4] == str(of_class["support"])
    assert "These are 12 dialogues of many" in page.text


def shown(measure: Measure, figure: dict[str, Any]) -> str:
    low, high = (measure.number(bound) for bound in figure["interval"])
    return f"{measure.number(figure['mean'])} ± {measure.number(figure['std'])} ({low} to {high})"


def test_page_compares_with_the_commonest_class(page: Page) -> None:
    always = score(np.eye(3, dtype=np.float32)[[0] * 60], make_data(1).labels, NAMES)
    row = page.cells.index("always “neutral”")
    assert page.cells[row + 3 : row + 15 : 3] == [
        f"{100 * value:.1f}"
        for value in (always.accuracy, always.weighted_f1, always.macro_f1, always.unweighted_recall)
    ]


def test_page_names_the_most_frequent_mistakes(tmp_path: Path) -> None:
    data = make_data(1)
    confusion = {"labels": list(NAMES), "sum": [[30, 4, 6], [9, 6, 0], [0, 0, 5]]}
    text = read(replace(data, summary=data.summary | {"confusion": confusion}), tmp_path).text
    assert "joy taken for neutral: 60\N{NO-BREAK SPACE}% of its utterances" in text
    assert text.count("taken for") == 4, "three mistakes and a heading"
    confusion = {"labels": list(NAMES), "sum": np.diag([40, 15, 5]).tolist()}
    assert "no mistakes" in read(replace(data, summary=data.summary | {"confusion": confusion}), tmp_path).text


def test_page_needs_nothing_else(page: Page) -> None:
    assert not {"script", "link", "iframe", "a"} & {tag for tag, _ in page.tags}
    assert "://" not in re.sub('base64,[^"]*', "", page.html)
    for picture in page.plots:
        without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>', "", picture)
        assert "://" not in without_namespaces


def test_figures_are_drawn_for_light_and_dark_screens(page: Page) -> None:
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    dark, light = page.plots[::2], page.plots[1::2]
    assert len(dark) == len(light) == 4
    for pictures, theme, other in ((light, LIGHT, DARK), (dark, DARK, LIGHT)):
        for picture in pictures:
            ElementTree.fromstring(picture)
            assert theme.ink in picture
            assert other.ink not in picture
            assert other.bar not in picture


def contrast(one: str, other: str) -> float:
    """Of two colours "#rrggbb", as the Web Content Accessibility Guidelines define it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_can_be_distinguished(theme: object) -> None:
    assert contrast(theme.ink, theme.paper) > 7
    assert contrast(theme.ink, theme.cell) > 4.5
    assert contrast(theme.faint, theme.paper) > 4.5
    assert all(contrast(colour, theme.paper) > 3 for colour in (theme.bar, *theme.seeds))


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    page = read(make_data(4), tmp_path)
    assert "±" not in page.text
    assert "one seed" in page.text
    assert (
        shown(MEASURES["accuracy"], make_data(4).summary["accuracy"] | {"std": 0}).replace(" ± 0.0", "") in page.cells
    )


def test_one_person_has_no_interval(tmp_path: Path) -> None:
    data = make_data(4)
    scores = score(data.probabilities[4], data.labels, NAMES, groups=[0] * 60, unit="person")
    page = read(replace(data, summary=summarise({4: scores})), tmp_path)
    assert "There is one person only" in page.text
    assert " to " not in page.cells[page.cells.index("always “neutral”") + 2]


def test_what_was_chosen_by_these_utterances_is_said_first(tmp_path: Path, page: Page) -> None:
    data = make_data(4)
    chosen = read(replace(data, summary=data.summary | {"chosen_on_this_split": True}), tmp_path)
    assert 0 < chosen.text.index(CHOSEN_HERE) < chosen.text.index("In short")
    assert CHOSEN_HERE not in page.text
    other = read(replace(data, summary=data.summary | {"chosen_on_this_split": False}), tmp_path)
    assert CHOSEN_HERE not in other.text


@pytest.mark.parametrize("curves", [{}, {1: {}, 4: {}}, {1: {"valid_loss": [], "chosen_epoch": []}}])
def test_without_a_training(curves: dict[int, dict[str, list[float]]], tmp_path: Path) -> None:
    page = read(replace(make_data(1, 4), curves=curves), tmp_path)
    assert "only evaluated" in page.text
    assert len(page.plots) == 2 * 3


@pytest.mark.parametrize(
    "curves",
    [
        {1: {"learning_rate": [0.1], "chosen_epoch": [1]}},
        {1: {"train_loss": [1.0, float("nan"), float("inf")], "chosen_epoch": [1]}, 4: {}},
        {1: {"valid_loss": [1.0]}, 4: {"loss": [1.0, 2.0], "chosen_epoch": [2]}},
    ],
)
def test_unusual_curves(curves: dict[int, dict[str, list[float]]], tmp_path: Path) -> None:
    assert len(read(replace(make_data(1, 4), curves=curves), tmp_path).plots) == 2 * 4


def test_same_data_gives_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_report(make_data(1), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data = make_data(1, 4)
    for wrong, reason in (
        (replace(data, probabilities={}), r"seeds \[\] for a summary of \['1', '4'\]"),
        (replace(data, probabilities={1: data.probabilities[1]}), "those that were summarised"),
        (replace(data, names=NAMES[::-1]), "what was summarised"),
        (replace(data, labels=data.labels[1:]), "60 utterances .* for 59 labels"),
        (replace(data, curves={1: CURVES[1] | {"chosen_epoch": [0]}}), "seed 1 chose epoch 0 of 3: count from 1"),
        (replace(data, curves={1: CURVES[1] | {"chosen_epoch": [4]}}), "seed 1 chose epoch 4 of 3"),
    ):
        with pytest.raises(ValueError, match=reason):
            write_report(wrong, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
