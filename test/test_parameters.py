"""Every parameter stands once, in config.py; the nodes, the YAML file, the README and the launch file follow it."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from synctva_ros.config import LAUNCH_ARGUMENTS, NODES, Param, plan

ROOT = Path(__file__).parents[1]
EVERY = [(node, param) for node, config in NODES.items() for param in config.params()]
NAMES = [f"{node}.{param.name}" for node, param in EVERY]


def load(path: Path) -> Any:
    """A module by its path."""
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def writer() -> Any:
    return load(ROOT / "tools/write_parameters.py")


def test_the_yaml_file_is_what_the_tool_writes(writer: Any) -> None:
    assert writer.YAML == ROOT / "config/perception.yaml"
    assert writer.YAML.read_text(encoding="utf-8") == writer.yaml(), "run: python tools/write_parameters.py"


def test_the_readme_is_what_the_tool_writes(writer: Any) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert writer.readme(text) == text, "run: python tools/write_parameters.py"
    assert text.count("<!-- end -->") == len(NODES) + 1
    for node, param in EVERY:
        assert sum(line.startswith(f"| `{param.name}` |") for line in writer.parameters(node)) == 1
    for table in ("<!-- parameters of utterance -->", "<!-- launch arguments -->"):
        with pytest.raises(ValueError, match=table):
            writer.readme(text.replace(table, ""))
    with pytest.raises(ValueError, match="has no <!-- end -->"):
        writer.readme(text.replace("<!-- end -->", ""))


def test_the_yaml_file_gives_the_defaults_with_their_types() -> None:
    read = yaml.safe_load((ROOT / "config/perception.yaml").read_text(encoding="utf-8"))
    assert list(read) == [f"/**/{node}" for node in NODES]
    for node, config in NODES.items():
        values = read[f"/**/{node}"]["ros__parameters"]
        assert list(values) == [param.name for param in config.params()]
        for param in config.params():
            assert values[param.name] == param.default, f"{node}.{param.name}"
            assert type(values[param.name]) is type(param.default), f"{node}.{param.name}"
        assert vars(config(**values)) == vars(config())


@pytest.mark.parametrize("value", [True, 0, -1, 1.0, 0.0005, 86_400.0, "", "off", "0", "no", "null", "a: b", "x"])
def test_any_value_is_written_as_yaml_reads_it(writer: Any, value: object) -> None:
    """Also what YAML takes for something else: off, no, null, 0."""
    read = yaml.safe_load(f"key: {writer.literal(value)}")["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(("node", "param"), EVERY, ids=NAMES)
def test_each_parameter_is_described_and_its_default_allowed(node: str, param: Param) -> None:
    assert len(param.meaning) > 10
    assert not param.meaning.endswith(".")
    assert "|" not in param.meaning, "it stands in a table"
    assert param.problem(param.default) == ""
    assert (param.low is None) == (param.high is None)
    if isinstance(param.default, float) or (isinstance(param.default, int) and not isinstance(param.default, bool)):
        assert param.low is not None, "every number has a range"
    assert NODES[node]().__dict__[param.name] == param.default


@pytest.mark.parametrize(("node", "param"), EVERY, ids=NAMES)
def test_what_is_not_allowed_is_named(node: str, param: Param) -> None:
    wrong: list[Any] = [None, [], b""]
    wrong += [value for value in (True, 1, 1.0, "x") if type(value) is not type(param.default)]
    if param.choices:
        wrong.append("nonsense")
    if param.low is not None and param.high is not None:
        kind = type(param.default)
        wrong += [kind(param.low - 1), kind(param.high + 1)]
        wrong += [math.nan, math.inf] if kind is float else []
    for value in wrong:
        with pytest.raises(ValueError, match=rf"parameter '{param.name}': "):
            NODES[node](**{param.name: value})
    if isinstance(param.default, float):
        assert param.problem(1).endswith("write 1.0")


@pytest.fixture(scope="module")
def declared() -> Any:
    """Descriptors and values of all parameters of all nodes."""
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from synctva_ros.ros.graph import create_node

    rclpy.init()
    found = {}
    for name in NODES:
        node = create_node(name)
        names = node.list_parameters([], 0).names
        found[name] = {key: (node.describe_parameter(key), node.get_parameter(key)) for key in names}
        node.destroy_node()
    rclpy.try_shutdown()
    return found


def test_each_node_has_these_parameters_and_no_others(declared: Any) -> None:
    for node, config in NODES.items():
        own = [name for name in declared[node] if name not in ("use_sim_time", "start_type_description_service")]
        assert own == [param.name for param in config.params()], node


@pytest.mark.parametrize(("node", "param"), EVERY, ids=NAMES)
def test_type_default_range_and_meaning_are_declared(declared: Any, node: str, param: Param) -> None:
    described, parameter = declared[node][param.name]
    assert parameter.value == param.default
    assert type(parameter.value) is type(param.default)
    assert not described.dynamic_typing
    assert not described.read_only
    assert described.description == param.meaning + (f" [{param.unit}]" if param.unit else "")
    ranges = [*described.floating_point_range, *described.integer_range]
    assert [(one.from_value, one.to_value) for one in ranges] == (
        [] if param.low is None else [(param.low, param.high)]
    )
    assert len(described.floating_point_range) == (param.low is not None and isinstance(param.default, float))
    for choice in param.choices:
        assert choice in described.additional_constraints


def test_launch_arguments_are_those_of_the_launch_file() -> None:
    pytest.importorskip("launch_ros", reason="launch is not on PyPI; it comes with a ROS distribution")
    from launch import actions

    found = [
        entity
        for entity in load(ROOT / "launch/perception.launch.py").generate_launch_description().entities
        if isinstance(entity, actions.DeclareLaunchArgument)
    ]
    assert [one.name for one in found] == [argument.name for argument in LAUNCH_ARGUMENTS]
    for one, argument in zip(found, LAUNCH_ARGUMENTS, strict=True):
        assert one.description == argument.meaning
        assert tuple(one.choices or ()) == argument.choices
        default = "".join(part.text for part in one.default_value)
        assert default.endswith(argument.default)
        assert (default == argument.default) is (argument.name != "config")


def test_the_launch_arguments_are_those_that_a_plan_asks_for() -> None:
    names = [argument.name for argument in LAUNCH_ARGUMENTS]
    assert len(set(names)) == len(names)
    assert set(plan.__kwdefaults__) < set(names)
    assert all(argument.default in argument.choices for argument in LAUNCH_ARGUMENTS if argument.choices)


@pytest.mark.parametrize(
    ("media", "microphone", "camera"), list(itertools.product(["", "talk.mp4"], [None, "", "USB"], [None, "0"]))
)
def test_who_listens_is_there_before_who_speaks(media: str, microphone: str | None, camera: str | None) -> None:
    nodes = plan(media=media, microphone=microphone, camera=camera)
    assert list(nodes)[:5] == ["emotion", "features", "faces", "transcriber", "utterance"]
    sources = {"camera"} if camera is not None else set()
    sources |= {"media"} if media else {"microphone"} if microphone is not None else set()
    assert set(list(nodes)[5:]) == sources
    for node, values in nodes.items():
        NODES[node](**values)
