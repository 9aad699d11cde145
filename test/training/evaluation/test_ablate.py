"""What is left out of Sync-TVA, on which modalities, and the table of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synctva_ros.training.data.dialogues import Corpus
from synctva_ros.training.evaluation import ablate as module
from synctva_ros.training.evaluation.ablate import ablate, table, variants, write_table
from synctva_ros.training.recipe import Recipe
from synctva_ros.training.tasks.dialogue import Run

TINY = Recipe(hidden=8, heads=2, window=2, epochs=1, batch=4, averaging=0.5, learning_rate=0.01)
PARTS_OF_TWO = ["whole", "without enhancement", "without memory", "without text-audio", "without cross-attention"]
REFERENCES = ["reference gru", "reference mlp"]


@pytest.mark.parametrize(
    ("modalities", "names"),
    [
        ("t", ["whole", "without enhancement", "without memory", *REFERENCES]),
        ("ta", [*PARTS_OF_TWO, "text alone", "audio alone", *REFERENCES]),
        (
            "tav",
            [
                *PARTS_OF_TWO[:-1],
                "without text-vision",
                "without audio-vision",
                "without cross-attention",
                "text alone",
                "without text",
                "audio alone",
                "without audio",
                "vision alone",
                "without vision",
                *REFERENCES,
            ],
        ),
    ],
)
def test_only_what_the_modalities_can_show(modalities: str, names: list[str]) -> None:
    assert list(variants(TINY, modalities)) == names


def test_what_a_variant_changes() -> None:
    found = variants(replace(TINY, without=("text_audio",)), "tav")
    assert found["whole"] == (replace(TINY, without=("text_audio",)), "tav")
    assert found["without memory"] == (replace(TINY, without=("text_audio", "memory")), "tav")
    assert found["without audio-vision"][0].without == ("text_audio", "audio_vision")
    assert found["without audio"][1] == "tv"
    assert found["vision alone"][1] == "v"
    assert found["reference gru"][0].model == "gru"


def options(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "data": folder,
        "corpus": "meld",
        "out": folder / "out",
        "recipe": TINY,
        "context": "full",
        "modalities": "tav",
        "seeds": (1, 2),
        "cache": folder,
        "device": "cpu",
        "progress": False,
    } | changes


@pytest.mark.usefixtures("words")
def test_every_variant_is_trained_once_and_scored(write_split: Callable[..., Corpus], tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_split(tmp_path, split, [3, 2, 4], widths={"audio": 7})
    said: list[str] = []
    results = ablate(**options(tmp_path), report=said.append)
    names = [*PARTS_OF_TWO, "text alone", "audio alone", *REFERENCES]
    assert list(results) == names
    assert [line.partition(": ")[0] for line in said] == [name for name in names for _ in range(2)]
    assert said[0].startswith("whole: seed 1 (1 of 2): validation weighted F1 ")
    run = Run.read(tmp_path / "out" / "audio-alone")
    assert (run.modalities, run.context, run.widths) == ("a", "full", (0, 7, 0))
    assert Run.read(tmp_path / "out" / "without-text-audio").recipe.without == ("text_audio",)
    assert all(summary["n"] == 9 for summary in results.values())

    text = write_table(results, tmp_path / "out")
    assert (tmp_path / "out" / "ablation.md").read_text() == text + "\n"
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == results

    said.clear()
    assert ablate(**options(tmp_path), report=said.append) == results
    assert all(line.endswith("finished before, kept") for line in said)


@pytest.mark.usefixtures("words")
def test_a_variant_that_leaves_an_utterance_with_nothing_is_left_out(
    write_split: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path, "train", [3, 2], widths={"audio": 7, "vision": 5}, missing={"vision": [4]})
    write_split(tmp_path, "valid", [3, 2], widths={"audio": 7, "vision": 5})
    monkeypatch.setattr(module, "variants", lambda recipe, letters: dict.fromkeys(("whole", "none"), (recipe, "v")))
    said: list[str] = []
    with pytest.raises(ValueError, match="utterance 2 of dialogue 'd1' has none of the modalities 'v'"):
        ablate(**options(tmp_path), report=said.append)
    monkeypatch.setattr(
        module,
        "variants",
        lambda recipe, letters: {"whole": (recipe, "tv"), "none": (recipe, "v"), "a": (recipe, "av")},
    )
    assert list(ablate(**options(tmp_path, seeds=(1,)), report=said.append)) == ["whole", "a"]
    assert said[1].startswith("none: left out (meld train: utterance 2 of dialogue 'd1' has none of the modalities 'v'")


def test_what_is_refused(write_split: Callable[..., Corpus], tmp_path: Path) -> None:
    write_split(tmp_path, "train", [3])
    write_split(tmp_path, "valid", [3])
    with pytest.raises(ValueError, match="the recipe is for 'gru', which has no parts to leave out"):
        ablate(**options(tmp_path, recipe=replace(TINY, model="gru")))
    with pytest.raises(ValueError, match="modalities are 'tx': give some of t"):
        ablate(**options(tmp_path, modalities="tx"))
    assert not (tmp_path / "out").exists()


def test_the_table() -> None:
    def summary(mean: float) -> dict[str, Any]:
        return {name: {"mean": mean, "std": 0.0123} for name in ("weighted_f1", "macro_f1", "ece")}

    lines = table({"whole": summary(0.6), "without memory": summary(0.567), "reference gru": summary(0.61)}).split("\n")
    assert lines[0] == "| variant | weighted F1 | difference | macro F1 | calibration error |"
    assert lines[2] == "| whole | 60.0 ± 1.2 | +0.0 | 60.0 ± 1.2 | 60.0 ± 1.2 |"
    assert lines[3] == "| without memory | 56.7 ± 1.2 | -3.3 | 56.7 ± 1.2 | 56.7 ± 1.2 |"
    assert lines[4].startswith("| reference gru | 61.0 ± 1.2 | +1.0 |")
    assert len({line.count("|") for line in lines}) == 1
