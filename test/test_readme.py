"""What the README shows works."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def code(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_behaviour_says_what_is_certain_and_nothing_else() -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    from rclpy.node import Node

    from synctva_ros import msg

    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("talker", context=context)
    publisher = node.create_publisher(msg.Emotion, "emotion", 10)
    process = subprocess.Popen([sys.executable, "-c", code("python")], stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 60.0
        while not any("certain" in line for line in lines):
            assert time.monotonic() < deadline, lines
            for status in (msg.Emotion.PROVISIONAL, msg.Emotion.UNCERTAIN):
                publisher.publish(msg.Emotion(status=status, label="fear", confidence=0.9, text="not this"))
            publisher.publish(msg.Emotion(status=msg.Emotion.FINAL, label="joy", confidence=0.75, text="certain"))
            time.sleep(0.1)
    finally:
        process.kill()  # rclpy's own handler of SIGTERM does not always come to an end on a busy machine
        process.wait(30)
        reader.join(30)
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert any("joy (75%): certain" in line for line in lines)
    assert not any("not this" in line for line in lines)


def test_the_service_is_stopped_with_what_takes_the_nodes_down() -> None:
    unit = code("ini")
    assert "KillSignal=SIGINT" in unit
    assert "perception.launch.py" in unit
