"""Recipes: what is read, and what is refused with which words."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from synctva_ros.network.synctva import PARTS
from synctva_ros.training.recipe import RECIPES, Recipe, read_recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_read_by_their_names(name: str) -> None:
    assert read_recipe(name) == read_recipe(RECIPES / f"{name}.yaml")


def test_what_a_shipped_recipe_says() -> None:
    assert {"meld-frozen", "gru", "iemocap", "meld", "mlp"} <= set(SHIPPED)
    assert read_recipe("meld-frozen") == Recipe()
    assert read_recipe("gru").model == "gru"
    assert read_recipe("mlp").model == "mlp"
    assert read_recipe("meld").text_adapter


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 3\nlearning_rate: 0.01\nweight_decay: 0\nwithout: [memory, text_audio]\nmodel: sync-tva\n")
    recipe = read_recipe(path)
    assert recipe == Recipe(epochs=3, learning_rate=0.01, weight_decay=0, without=("memory", "text_audio"))
    path.write_text("# the defaults\n")
    assert read_recipe(str(path)) == Recipe()


def test_every_setting_is_described() -> None:
    assert Recipe.__doc__ is not None
    for field in fields(Recipe):
        assert f"\n        {field.name}: " in Recipe.__doc__


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("epoch: 3", "unknown setting 'epoch'; the settings are averaging, batch"),
        ("1: 3", "unknown setting 1;"),
        ("epochs: many", "epochs is 'many': give a whole number"),
        ("epochs: 2.5", "epochs is 2.5: give a whole number"),
        ("epochs: true", "epochs is True: give a whole number"),
        ("epochs:", "epochs is None: give a whole number"),
        ("epochs: 0", "epochs is 0: give at least 1"),
        ("learning_rate: 1e-3", r"learning_rate is '1e-3': give a number such as 0\.001"),
        ("learning_rate: 1", "learning_rate is 1: give a number between 0 and 1"),
        ("dropout: 1.0", r"dropout is 1\.0: give a number from 0 to below 1"),
        ("dropout: .nan", "dropout is nan: give a number from 0"),
        ("focal: -1", "focal is -1: give 0 or more"),
        ("vote_loss: .inf", "vote_loss is inf: give 0 or more"),
        ("text_adapter: 3", "text_adapter is 3: give a text"),
        ("text_vector: word", "text_vector is 'word': give one of layers, sentence"),
        ("model: lstm", "model is 'lstm': give one of sync-tva, gru, mlp"),
        ("model: [gru]", "model is .'gru'.: give one of"),
        ("without: memory", f"without is 'memory': give a list of some of {', '.join(PARTS)}"),
        ("without: 3", "without is 3: give a list"),
        ("without: [memory, head]", r"without is \['memory', 'head'\]: give a list of some of enhancement"),
        ("- epochs", "settings are wanted, one 'name: value' a line"),
        ("epochs", "settings are wanted"),
        ("{", "not readable as YAML"),
        ("? [a]\n: 1", "not readable as YAML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"batch: 4\n{line}\n" if ": " in line and line[0].isalpha() else line)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine\.yaml: not readable as YAML"):
        read_recipe(path)


@pytest.mark.parametrize("name", ["no-such-recipe", ""])
def test_a_missing_recipe_names_those_that_are_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"there is no such recipe file; .*: gru, iemocap, meld, meld-frozen, mlp"):
        read_recipe(name)
    with pytest.raises(ValueError, match="there is no such recipe file"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"unknown_speakers": 1.0}, {"without": ("nothing",)}])
def test_the_same_holds_without_a_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)
