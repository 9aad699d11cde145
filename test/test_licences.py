"""Licences of code and weights: each is said, all say the same, and the texts come along."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "LICENSES"
WEIGHTS = ROOT / "synctva_ros/weights"
FOLDERS = sorted(path.parent.name for path in WEIGHTS.glob("*/README.md"))
CODE = "Apache-2.0"
#: Sentences of a text's beginning, middle and end.
PARTS = {
    "Apache-2.0": ("Apache License", "2. Grant of Copyright License", "END OF TERMS AND CONDITIONS"),
    "CC-BY-NC-SA-4.0": (
        "Attribution-NonCommercial-ShareAlike 4.0 International",
        *(f"Section {number} " for number in range(1, 9)),
        "Creative Commons may be contacted at creativecommons.org",
    ),
}


def licences(expression: str) -> set[str]:
    """The licences that all hold (SPDX)."""
    return set(expression.split(" AND "))


def on_card(name: str) -> str:
    """The expression that the section on the licence begins with."""
    card = (WEIGHTS / name / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^## Licence\n\n`([^`]+)`", card, re.MULTILINE)
    assert found, f"{name}/README.md: no section 'Licence' that begins with an SPDX expression in backquotes"
    return found[1]


@pytest.fixture(scope="module")
def metadata() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"])


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_say_the_same_licence_on_card_and_in_description(name: str) -> None:
    description = WEIGHTS / name / "model.json"
    if not description.is_file():
        assert name == "whisper_demo", f"{name} has no model.json"  # another format
        return
    said = json.loads(description.read_text(encoding="utf-8"))["training"].get("licence", "")
    assert said.partition(":")[0] == on_card(name)


def test_metadata_name_the_licences_of_code_and_weights_and_no_other(metadata: str) -> None:
    assert licences(metadata) == {CODE}.union(*(licences(on_card(name)) for name in FOLDERS))


def test_package_xml_names_the_same_licences_and_their_texts(metadata: str) -> None:
    named = parse_package(str(ROOT / "package.xml")).licenses
    assert str(named[0]) == CODE
    assert {str(licence): licence.file for licence in named} == {
        name: f"LICENSES/{name}.txt" for name in licences(metadata)
    }


def test_there_is_a_whole_text_of_each_and_of_no_other(metadata: str) -> None:
    assert {path.stem for path in TEXTS.iterdir()} == licences(metadata)
    for name, parts in PARTS.items():
        text = (TEXTS / f"{name}.txt").read_text(encoding="utf-8")
        places = [text.find(part) for part in parts]
        assert -1 not in places, f"{name}: {parts[places.index(-1)]!r} is missing"
        assert places == sorted(places)
    assert (ROOT / "LICENSE").read_bytes() == (TEXTS / f"{CODE}.txt").read_bytes()


def test_the_wheel_names_the_licences_and_holds_their_texts(metadata: str) -> None:
    installed = importlib.metadata.distribution("synctva-ros")
    if installed.read_text("WHEEL") is None:
        pytest.skip("not installed from a wheel")
    assert installed.metadata["License-Expression"] == metadata
    wanted = {"LICENSE", *(f"LICENSES/{path.name}" for path in TEXTS.iterdir())}
    assert set(installed.metadata.get_all("License-File")) == wanted
    for name in wanted:
        assert installed.read_text(f"licenses/{name}") == (ROOT / name).read_text(encoding="utf-8")


def test_the_page_on_licences_has_a_row_for_each_of_the_weights() -> None:
    page = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if "weights/" in line]
    table = {re.sub(r"\[`(\w+)`\].*", r"\1", row[0]): row for row in rows if row[0].startswith("[")}
    assert {name: row[2] for name, row in table.items()} == {name: f"`{on_card(name)}`" for name in FOLDERS}
    for name, (*_, may, instead) in table.items():
        assert (may == "yes") == (licences(on_card(name)) == {CODE}), name
        assert may == "yes" or instead.startswith("`synctva train"), f"{name}: no command that makes others"
