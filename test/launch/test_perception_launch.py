"""The launch file: what it declares is in the README, and what it starts answers."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from synctva_ros.config import LAUNCH_ARGUMENTS, plan

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch/perception.launch.py"
DEMO = ROOT / "synctva_ros/demo"
NODES = tuple(plan(media="dialogue.flac"))


def test_readme_lists_each_argument():
    readme = (ROOT / "README.md").read_text()
    section = re.search(r"^#+ [^\n]*perception\.launch\.py[^\n]*\n(.*?)(?=^#|\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section, "README.md has no section on perception.launch.py"
    assert re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE) == [argument.name for argument in LAUNCH_ARGUMENTS]


@pytest.fixture
def launch(tmp_path):
    """Start ``ros2 launch`` on the launch file; what still runs after the test is ended."""
    pytest.importorskip("ros2launch", reason="ros2 launch is not on PyPI; it comes with a ROS distribution")
    log = tmp_path / "log"
    processes = []

    def start(*arguments):
        with log.open("w") as output:
            command = ["ros2", "launch", str(LAUNCH), *arguments]
            processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True))
        return processes[-1], log

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_each_argument_is_described(launch):
    process, log = launch("--show-args")
    assert process.wait(60) == 0
    shown = re.findall(r"^    '(\w+)':\n        (.+)\n", log.read_text(), re.MULTILINE)
    choices = [f". Valid choices are: {list(one.choices)}" if one.choices else "" for one in LAUNCH_ARGUMENTS]
    assert shown == [(one.name, one.meaning + allowed) for one, allowed in zip(LAUNCH_ARGUMENTS, choices, strict=True)]


def test_demo_dialogue_is_answered_in_a_namespace(launch):
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from synctva_ros import msg
    from synctva_ros.ros.node import QOS_RESULT

    turns = json.loads((DEMO / "dialogue.json").read_text())["turns"]
    answers = []
    rclpy.init()
    listener = rclpy.create_node("listener")
    listener.create_subscription(msg.Emotion, "/robot1/emotion", answers.append, QOS_RESULT)
    process, log = launch(f"media:={DEMO}/dialogue.flac", "whisper:=demo", "fast:=true", "namespace:=robot1")
    try:
        deadline = time.monotonic() + 200
        while len(answers) < len(turns) and process.poll() is None and time.monotonic() < deadline:
            rclpy.spin_once(listener, timeout_sec=0.5)
    finally:
        listener.destroy_node()
        rclpy.shutdown()
    assert [answer.turn for answer in answers] == list(range(len(turns))), log.read_text()
    assert [answer.text for answer in answers] == [turn["text"] for turn in turns], log.read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    text = log.read_text()
    assert text.index("all nodes are active") < text.index("finished cleanly")
    assert text.count("finished cleanly") == len(NODES), text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["media:=nothing.wav"], "media:=nothing.wav: there is no such file"),
        (["config:=nothing.yaml"], "config:=nothing.yaml: there is no such file"),
        (["device:=tpu"], 'Argument "device" provided value "tpu" is not valid'),
        (["timeout:=soon"], "timeout:=soon: give a number of seconds above 0"),
        (["config:=bad.yaml"], "bad.yaml, line 3: parameter 'max_turns': 0 is not from 1 to 1000"),
        (["config:=unknown.yaml"], "unknown.yaml, line 3: the node 'emotion' has no parameter 'max_turn'; did you"),
        (["config:=broken.yaml"], "broken.yaml, line 1: this is no YAML (mapping values are not allowed here)"),
    ],
)
def test_wrong_argument_is_refused_before_anything_starts(launch, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("/**/emotion:\n  ros__parameters:\n    max_turns: 0\n")
    (tmp_path / "unknown.yaml").write_text("/**/emotion:\n  ros__parameters:\n    max_turn: 1\n")
    (tmp_path / "broken.yaml").write_text("a: b: c\n")
    process, log = launch(*arguments)
    assert process.wait(60) == 1
    assert expected in log.read_text()
    assert "process started" not in log.read_text()


def test_refused_parameters_end_the_launch_and_name_the_node(launch, tmp_path):
    """Each is allowed by itself, so that only the node can tell."""
    config = tmp_path / "config.yaml"
    config.write_text("/**/utterance:\n  ros__parameters:\n    stop_ratio: 0.9\n")
    process, log = launch(f"config:={config}", "microphone:=off", "whisper:=demo")
    assert process.wait(200) == 1
    text = log.read_text()
    assert "not configured: stop_ratio (0.9) must not be above start_ratio (0.7)" in text
    assert "/utterance could not be configured" in text
    assert text.count("finished cleanly") == len(plan()), text


def test_a_node_that_does_not_come_ends_the_launch(launch, tmp_path):
    os.mkfifo(tmp_path / "model.json")  # whoever reads it waits for ever
    config = tmp_path / "config.yaml"
    config.write_text(f"/**/emotion:\n  ros__parameters:\n    weights: {tmp_path}\n")
    process, log = launch(f"config:={config}", "microphone:=off", "timeout:=3")
    assert process.wait(200) == 1
    assert "/emotion was not configured within 3 s" in log.read_text()


def test_nodes_of_these_names_are_noticed(launch):
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    rclpy.init()
    other = rclpy.create_node("features", namespace="robot1")
    try:
        process, log = launch("microphone:=off", "namespace:=robot1")
        assert process.wait(200) == 1  # when it is found depends on how busy the machine is
    finally:
        other.destroy_node()
        rclpy.shutdown()
    text = log.read_text()
    assert "a node /robot1/features is running already in the ROS domain" in text
    assert "namespace:=NAME" in text
    assert "all nodes are active" not in text
