"""The file of parameters: ROS and we read the same in it, and what is wrong has its line."""

import pytest

from synctva_ros.config import NODES
from synctva_ros.parameter_file import read_parameter_file

HEAD = "/**/transcriber:\n  ros__parameters:\n    "


@pytest.fixture
def read(tmp_path):
    """What is in a file with this text."""

    def read(text, namespace="", **options):
        path = tmp_path / "p.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_parameter_file(path, namespace, **options)

    return read


@pytest.mark.parametrize(
    ("name", "namespaces"),
    [
        ("emotion", {""}),
        ("/emotion", {""}),
        ("/**/emotion", {"", "robot1", "robot1/left"}),
        ("/**", {"", "robot1", "robot1/left"}),
        ("/robot1/emotion", {"robot1"}),
        ("robot1/emotion", {"robot1"}),
        ("/robot1/**", {"robot1", "robot1/left"}),
        ("/*/emotion", {"robot1"}),
        ("/robot1/left/emotion", {"robot1/left"}),
    ],
)
def test_a_name_is_for_the_nodes_that_ros_means(read, tmp_path, name, namespaces):
    text = f"{name}:\n  ros__parameters:\n    max_turns: 7\n"
    given = {ns for ns in ("", "robot1", "robot1/left") if read(text, ns) == {"emotion": {"max_turns": 7}}}
    assert given == namespaces
    assert {ns for ns in ("", "/robot1", "robot1/left/") if read(text, ns)} == {
        {"robot1": "/robot1", "robot1/left": "robot1/left/"}.get(ns, ns) for ns in namespaces
    }
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(tmp_path / "p.yaml")], context=context)
    try:
        for namespace in ("", "robot1", "robot1/left"):
            node = rclpy.create_node("emotion", namespace=namespace, context=context)
            assert ("max_turns" in node._parameter_overrides) == (namespace in namespaces)
            node.destroy_node()
    finally:
        context.shutdown()


def test_namespaces_may_be_nested_and_what_comes_later_wins(read):
    text = (
        "robot1:\n  emotion:\n    ros__parameters:\n      max_turns: 7\n"
        "/**:\n  ros__parameters:\n    max_turns: 8\n    threads: 2\n    use_sim_time: true\n"
    )
    assert read(text, "robot1")["emotion"] == {"max_turns": 8, "threads": 2}
    assert read(text)["faces"] == {"threads": 2}


VALUES = [
    "base.en",
    "'no'",
    '"0"',
    "''",
    "~",
    "null",
    "!!str no",
    "2024-01-01",
    "12:30",
    "1_000",
    "a b",
    "|\n      x",
    "yes",
    "off",
    "y",
    "N",
    "True",
    "5",
    "+5",
    "-3",
    "0x10",
    "010",
    "1.5",
    "1.",
    ".5",
    "1e3",
    "-1.5e-3",
    ".inf",
    ".nan",
]


@pytest.mark.parametrize("written", VALUES)
def test_a_value_is_what_ros_takes_it_for(tmp_path, written):
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from synctva_ros.parameter_file import _parse

    path = tmp_path / "p.yaml"
    path.write_text(f"{HEAD}it: {written}\n")
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    try:
        node = rclpy.create_node("transcriber", context=context)
        theirs = node._parameter_overrides["it"].value
        node.destroy_node()
    finally:
        context.shutdown()
    (ours,) = _parse(path)
    assert (repr(ours.value), type(ours.value)) == (repr(theirs), type(theirs))


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (f"{HEAD}language: no\n", 3, "parameter 'language': False is not of type str; write it in quotes"),
        (f"{HEAD}language: 5\n", 3, "parameter 'language': 5 is not of type str; write it in quotes: '5'"),
        (f"{HEAD}beam_size: 1.0\n", 3, "parameter 'beam_size': 1.0 is not of type int"),
        (f"{HEAD}beam_size: '1'\n", 3, "parameter 'beam_size': '1' is not of type int"),
        (f"{HEAD}min_rms: 0\n", 3, "parameter 'min_rms': 0 is not of type float; write 0.0"),
        (f"{HEAD}beam_size: 1\n    device: tpu\n", 4, "parameter 'device': 'tpu' is not one of: 'auto', 'cpu', 'cuda'"),
        (f"{HEAD}beam_size: 99\n", 3, "parameter 'beam_size': 99 is not from 1 to 10"),
        (f"{HEAD}min_rms: .nan\n", 3, "parameter 'min_rms': nan is not from 0 to 0.5"),
        (f"# A comment.\n\n{HEAD}langage: en\n", 5, "has no parameter 'langage'; did you mean 'language'?"),
        (f"{HEAD}language:\n", 3, "parameter 'language' has no value; write '' for an empty one"),
        (f"{HEAD}language: [en]\n", 3, "parameter 'language': a list is not a value for it"),
        (f"{HEAD}language: {{a: b}}\n", 3, "has no parameter 'language.a'"),
        (f"{HEAD}use_sim_time: 1\n", 3, "parameter 'use_sim_time': 1 is not of type bool"),
        (f"{HEAD}zzz: 1\n", 3, "the node 'transcriber' has no parameter 'zzz'; there are: model, "),
        ("/**:\n  ros__parameters:\n    thread: 2\n", 3, "no node has a parameter 'thread'; did you mean 'threads'?"),
        ("/**:\n  ros__parameters:\n    language: [en]\n", 3, "parameter 'language': a list is not a value for it"),
        ("/**:\n  ros__parameters:\n    threads: 0\n", 3, "parameter 'threads': 0 is not from 1 to 64"),
        ("#\nemotoin:\n  ros__parameters:\n    threads: 1\n", 2, "there is no node 'emotoin'; did you mean 'emotion'?"),
        ("/**/microfone:\n  ros__parameters:\n    device: a\n", 1, "'microfone'; did you mean 'microphone'?"),
        ("lidar:\n  ros__parameters:\n    rate:\n", 3, "parameter 'rate' has no value"),
        (
            "lidar:\n  ros__parameters:\n    a: [1, 2.5]\n",
            3,
            "parameter 'a': a list holds values of one type, no lists",
        ),
        ("lidar:\n  ros__parameters:\n    a: [[1], [2]]\n", 3, "a list holds values of one type, no lists"),
        ("emotion:\n  max_turns: 3\n", 2, "'/emotion/max_turns' needs a node's name, below it ros__parameters"),
        ("emotion:\n", 1, "'/emotion' needs a node's name, below it ros__parameters"),
        ("emotion:\n  ros__parameters:\n", 2, "below ros__parameters there are no parameters"),
        ("emotion\n", 1, "the file needs a node's name"),
        ("emotion:\n  ros__parameters:\n    weights: &w a\n    device: *w\n", 4, "ROS does not know aliases (*w)"),
        ("emotion:\n  ros__parameters: {threads: 1\n", 3, "this is no YAML (expected ',' or '}'"),
        ("emotion:\n\tros__parameters:\n", 2, "this is no YAML (found character '\\t' that cannot start any token)"),
    ],
)
def test_what_is_wrong_has_its_line(read, tmp_path, text, line, sentence):
    with pytest.raises(ValueError, match=r"p\.yaml") as refused:
        read(text)
    assert str(refused.value).startswith(f"{tmp_path / 'p.yaml'}, line {line}: ")
    assert sentence in str(refused.value)


#: One file for all that runs on a robot.
ROBOT = """
/**:
  ros__parameters:
    use_sim_time: true
    max_speed: 1.5
    frame_rate: 30
    models: [a, b]
    threads: 2
/**/base_controller:
  ros__parameters:
    gains: [1.0, 2.0]
    wheels: {left: [a, b], right: []}
    rate: 50
camera1: {ros__parameters: {rate: fast}}
left_camera: {ros__parameters: {rate: fast}}
/**/motor: {ros__parameters: {device: 0}}
/robot2/emotion: {ros__parameters: {max_turn: many}}
/robot2/emotoin: {ros__parameters: {max_turns: 3}}
/**/emotion:
  ros__parameters:
    max_turns: 7
"""


def test_what_is_for_other_nodes_of_the_robot_is_left_alone_and_told(read):
    told = []
    given = read(ROBOT, tell=told.append)
    assert given == {"emotion": {"threads": 2, "max_turns": 7}, "features": {"threads": 2}} | {
        node: {"threads": 2} for node in ("faces", "transcriber")
    }
    (sentence,) = told
    assert sentence.endswith(
        "p.yaml: what is not for nodes of this graph is left alone: /** (max_speed, frame_rate, models), "
        "/**/base_controller, /camera1, /left_camera, /**/motor, /robot2/emotion and 1 more"
    )


def test_ros_reads_that_file(read, tmp_path):
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    read(ROBOT)
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(tmp_path / "p.yaml")], context=context)
    context.shutdown()


def test_nothing_is_told_of_what_is_ours(read):
    told = []
    text = "".join(f"{node}: {{ros__parameters: {{use_sim_time: true}}}}\n" for node in NODES)
    read(text + "/**: {ros__parameters: {use_sim_time: true, rate: 5.0}}\n", nodes=["emotion"], tell=told.append)
    assert told == []


@pytest.mark.parametrize(
    "text", ["camera: {ros__parameters: {FrameDurationLimits: [1, 2]}}", "/**/camra: {ros__parameters: {rate: 5}}"]
)
def test_a_node_that_is_not_started_may_be_somebody_elses(read, text):
    with pytest.raises(ValueError, match="camera"):
        read(text)
    assert read(text, nodes=["emotion", "faces"]) == {}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"a: \x01"])
def test_what_is_no_text(read, content):
    with pytest.raises(ValueError, match=r"p\.yaml: this is no (text in UTF-8|YAML) \("):
        read(content)


@pytest.mark.parametrize("text", ["", "# nothing\n", "emotion:\n  ros__parameters: {}\n"])
def test_a_file_may_be_empty(read, text):
    assert read(text) == {}


def test_what_is_for_ros_itself_is_left_to_it(read):
    assert read(f"{HEAD}qos_overrides: {{/emotion: {{publisher: {{depth: [1]}}}}}}\n    use_sim_time: true\n") == {}


def test_each_default_may_be_written_down(read):
    for node, kind in NODES.items():
        for param in kind.params():
            value = f"'{param.default}'" if isinstance(param.default, str) else str(param.default).lower()
            text = f"{node}:\n  ros__parameters:\n    {param.name}: {value}\n"
            assert read(text) == {node: {param.name: param.default}}
