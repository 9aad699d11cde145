"""Recipes: what is read, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synctva_ros.training.recipe import KINDS, RECIPES, Recipe, VoiceRecipe, read_recipe

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_read_by_their_names(name: str) -> None:
    assert read_recipe(name) == read_recipe(RECIPES / f"{name}.yaml")


def test_what_a_shipped_recipe_says() -> None:
    assert {"meld-frozen", "gru", "iemocap", "meld", "mlp"} <= set(SHIPPED)
    assert read_recipe("meld-frozen") == Recipe()
    for name, model in (("gru", "gru"), ("mlp", "mlp"), ("meld", "sync-tva")):
        recipe = read_recipe(name)
        assert isinstance(recipe, Recipe)
        assert (recipe.model, bool(recipe.text_adapter)) == (model, name == "meld")
    for kind, name in (("robot", "shipped"), ("voice", "voice"), ("face", "face"), ("text", "text")):
        # What is written there for people to read is what the code does anyway.
        assert read_recipe(name) == KINDS[kind]()


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 3\nlearning_rate: 1e-2\nweight_decay: 0\nwithout: memory, text_audio\nmodel: sync-tva\n")
    recipe = read_recipe(path)
    assert recipe == Recipe(epochs=3, learning_rate=0.01, weight_decay=0.0, without="memory, text_audio")
    assert recipe.parts_left_out == ("memory", "text_audio")
    path.write_text("# the defaults\n")
    assert read_recipe(str(path)) == Recipe()


def test_what_somebody_types_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: voice\nepochs: 3\nfolds: 4\n")
    changes = {"epochs": "7", "learning_rate": "3e-3", "corpora": "emovo"}
    assert read_recipe(path, changes) == VoiceRecipe(epochs=7, folds=4, learning_rate=0.003, corpora="emovo")
    with pytest.raises(ValueError, match="parameter 'epochs': 'many' is not of type int"):
        read_recipe(path, {"epochs": "many"})
    with pytest.raises(ValueError, match="unknown setting 'hidden'; the settings are averaging, batch"):
        read_recipe(path, {"hidden": "3"})
    path.write_text("task: taste\n")
    with pytest.raises(
        ValueError, match="task is 'taste': give one of dialogue, robot, voice, voice-states, face, text"
    ):
        read_recipe(path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("epoch: 3", "unknown setting 'epoch'; the settings are averaging, batch"),
        ("1: 3", "unknown setting 1;"),
        ("epochs: many", "parameter 'epochs': 'many' is not of type int"),
        ("epochs: 2.5", r"parameter 'epochs': 2\.5 is not of type int"),
        ("epochs: true", "parameter 'epochs': True is not of type int"),
        ("epochs:", "parameter 'epochs': None is not of type int"),
        ("epochs: 0", "parameter 'epochs': 0 is not from 1 to"),
        ("learning_rate: fast", "parameter 'learning_rate': 'fast' is not of type float"),
        ("learning_rate: true", "parameter 'learning_rate': True is not of type float"),
        ("learning_rate: 0", r"parameter 'learning_rate': 0\.0 is not from 1e-07 to 1"),
        ("dropout: 1.0", r"parameter 'dropout': 1\.0 is not from 0 to"),
        ("dropout: .nan", "parameter 'dropout': nan is not from 0"),
        ("focal: -1", r"parameter 'focal': -1\.0 is not from 0"),
        ("vote_loss: .inf", "parameter 'vote_loss': inf is not from 0"),
        ("text_adapter: 3", "parameter 'text_adapter': 3 is not of type str"),
        ("text_vector: word", "parameter 'text_vector': 'word' is not one of: 'layers', 'sentence'"),
        ("model: lstm", "parameter 'model': 'lstm' is not one of: 'sync-tva', 'gru', 'mlp'"),
        ("model: [gru]", "parameter 'model': .'gru'. is not of type str"),
        ("without: [memory]", "parameter 'without': .'memory'. is not of type str"),
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
    with pytest.raises(
        ValueError, match=r"there is no such recipe file; .*: face, gru, iemocap, meld, meld-frozen, mlp"
    ):
        read_recipe(name)
    with pytest.raises(ValueError, match="there is no such recipe file"):
        read_recipe(tmp_path)


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"unknown_speakers": 1.0}, {"without": ("nothing",)}])
def test_the_same_holds_without_a_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)
