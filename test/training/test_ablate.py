"""What is left out of Sync-TVA, on which modalities, and the table of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synctva_ros.training import ablate as module
from synctva_ros.training.ablate import ablate, duration, table, variants, write_table
from synctva_ros.training.data.dialogues import Corpus
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
    found = variants(replace(TINY, without="text_audio"), "tav")
    assert found["whole"] == (replace(TINY, without="text_audio"), "tav")
    assert found["without memory"] == (replace(TINY, without="text_audio,memory"), "tav")
    assert found["without audio-vision"][0].without == "text_audio,audio_vision"
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
    assert said[0] == "18 trainings: 9 variants, 2 seeds each"
    assert re.fullmatch(r"encoding the text took \d+ s", said[1])
    assert said[2].startswith("whole: seed 1 (1 of 2): validation weighted F1 ")
    assert re.fullmatch(r"2 trainings took \d+ s: the other 16 will take about \d+ (s|min)", said.pop(4))
    assert [line.partition(": ")[0] for line in said[2:]] == [name for name in names for _ in range(2)]
    run = Run.read(tmp_path / "out" / "audio-alone")
    assert (run.modalities, run.context, run.widths) == ("a", "full", (0, 7, 0))
    assert Run.read(tmp_path / "out" / "without-text-audio").recipe.without == "text_audio"
    assert all(summary["n"] == 9 for summary in results.values())

    text = write_table(results, tmp_path / "out")
    assert (tmp_path / "out" / "ablation.md").read_text() == text + "\n"
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == results

    said.clear()
    assert ablate(**options(tmp_path), report=said.append) == results
    assert said.pop(0) == "18 trainings: 9 variants, 2 seeds each; 18 finished before"
    assert all(line.endswith("finished before, kept") for line in said)


@pytest.mark.usefixtures("words")
def test_each_is_compared_with_the_whole_on_the_same_dialogues(
    write_split: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "valid"):
        write_split(tmp_path, split, [3, 2, 4])
    monkeypatch.setattr(
        module,
        "variants",
        lambda recipe, letters: {
            "whole": (recipe, "t"),
            "same": (recipe, "t"),
            "gru": (replace(recipe, model="gru"), "t"),
        },
    )
    said: list[str] = []
    results = ablate(**options(tmp_path, seeds=(1,)), report=said.append)
    assert "difference" not in results["whole"]
    assert results["same"]["difference"] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}
    by = results["gru"]["weighted_f1"]["mean"] - results["whole"]["weighted_f1"]["mean"]
    assert results["gru"]["difference"]["difference"] == pytest.approx(by)
    assert said[0] == "3 trainings: 3 variants, 1 seed each"
    assert said[3].startswith("1 training took ")


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
    said.clear()
    monkeypatch.setattr(
        module,
        "variants",
        lambda recipe, letters: {"whole": (recipe, "tv"), "none": (recipe, "v"), "a": (recipe, "av")},
    )
    assert list(ablate(**options(tmp_path, seeds=(1,)), report=said.append)) == ["whole", "a"]
    assert said[0].startswith("none: left out (meld train: utterance 2 of dialogue 'd1' has none of the modalities 'v'")
    assert said[1] == "2 trainings: 2 variants, 1 seed each", "what is left out is no training"


def test_what_is_refused(write_split: Callable[..., Corpus], tmp_path: Path) -> None:
    write_split(tmp_path, "train", [3])
    write_split(tmp_path, "valid", [3])
    with pytest.raises(ValueError, match="the recipe is for 'gru', which has no parts to leave out"):
        ablate(**options(tmp_path, recipe=replace(TINY, model="gru")))
    with pytest.raises(ValueError, match="modalities are 'tx': give some of t"):
        ablate(**options(tmp_path, modalities="tx"))
    assert not (tmp_path / "out").exists()


def test_the_table() -> None:
    def summary(mean: float, std: float | None = 0.0123, **difference: Any) -> dict[str, Any]:
        figures = {name: {"mean": mean, "std": std} for name in ("weighted_f1", "macro_f1", "ece")}
        return figures | ({"difference": difference} if difference else {})

    lines = table(
        {
            "whole": summary(0.6),
            "without memory": summary(0.567, difference=-0.033, interval=[-0.05, -0.01], p=0.012),
            "reference gru": summary(0.61, None, difference=0.01, interval=None, p=None),
        }
    ).split("\n")
    assert lines[0] == "| variant | weighted F1 | difference | 95 % interval | p | macro F1 | calibration error |"
    assert lines[2] == "| whole | 60.0 ± 1.2 |  |  |  | 60.0 ± 1.2 | 60.0 ± 1.2 |"
    assert lines[3] == "| without memory | 56.7 ± 1.2 | -3.3 | -5.0 to -1.0 | 0.012 | 56.7 ± 1.2 | 56.7 ± 1.2 |"
    assert lines[4] == "| reference gru | 61.0 | +1.0 |  |  | 61.0 | 61.0 |"
    assert len({line.count("|") for line in lines}) == 1


def test_times_are_written_for_people() -> None:
    assert [duration(s) for s in (0.4, 59.6, 150, 5000, 9000)] == ["0 s", "60 s", "2 min", "83 min", "2.5 h"]
