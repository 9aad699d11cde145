"""Code, YAML and README name the same parameters, with the same defaults."""

import importlib
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from synctva_ros.ros.graph import NODES

ROOT = Path(__file__).parents[1]


def declared(node):
    node_class = getattr(importlib.import_module(f"synctva_ros.ros.{node}"), NODES[node])
    return {param.name: param.default for param in node_class.PARAMETERS}


def in_yaml(node):
    return yaml.safe_load((ROOT / "config/perception.yaml").read_text())[f"/**/{node}"]["ros__parameters"]


def in_readme(node):
    text = (ROOT / "README.md").read_text()
    section = re.search(rf"^### {node}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    assert section, f"README.md has no section '### {node}'"
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", section[1], re.MULTILINE)
    return {name: yaml.safe_load(default) for name, default in rows}


@pytest.mark.parametrize("node", NODES)
def test_yaml_holds_each_parameter_with_its_default(node):
    assert in_yaml(node) == declared(node)
    for name, value in in_yaml(node).items():
        assert type(value) is type(declared(node)[name]), name


@pytest.mark.parametrize("node", NODES)
def test_readme_lists_each_parameter_with_its_default(node):
    assert in_readme(node) == declared(node)


def test_yaml_has_no_other_nodes():
    assert set(yaml.safe_load((ROOT / "config/perception.yaml").read_text())) == {f"/**/{node}" for node in NODES}
