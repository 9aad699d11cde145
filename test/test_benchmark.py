"""Every benchmark can be started: what it imports is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmark"
#: Those that are started by hand; the others are parts of them.
SCRIPTS = ("against", "encoders", "footprint", "latency", "mouth", "peer", "rolling", "turns", "voices")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_tells_its_options(name: str) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    command = [sys.executable, FOLDER / f"{name}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--json" in done.stdout or "--other" in done.stdout or "--sheet" in done.stdout
