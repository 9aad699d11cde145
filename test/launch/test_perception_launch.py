"""The launch file: what it declares is in the README, and what it starts answers."""

import json
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
    section = re.search(r"^#+ .*perception\.launch\.py.*?\n(.*?)(?=^#|\Z)", readme, re.MULTILINE | re.DOTALL)
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
    ],
)
def test_wrong_argument_is_refused_before_anything_starts(launch, arguments, expected):
    process, log = launch(*arguments)
    assert process.wait(60) == 1
    assert expected in log.read_text()
    assert "process started" not in log.read_text()


def test_refused_parameter_ends_the_launch_and_names_node_and_parameter(launch, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("/**/emotion:\n  ros__parameters:\n    max_turns: 0\n")
    process, log = launch(f"config:={config}", "microphone:=off")
    assert process.wait(90) == 1
    text = log.read_text()
    assert "not configured: parameter 'max_turns'" in text
    assert "/emotion could not be configured" in text
    assert text.count("finished cleanly") == len(plan()), text
