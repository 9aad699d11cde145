"""One node as a process: ``python -m synctva_ros.ros NODE --ros-args ...``, and what the executables call."""

from __future__ import annotations

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the node takes it: an interrupted import has 50 lines to say

from synctva_ros.ros.graph import create_node  # noqa: E402
from synctva_ros.ros.node import run_node  # noqa: E402


def main(name: str) -> None:
    """Run a node until it is told to stop."""
    run_node(lambda: create_node(name), sys.argv)


if __name__ == "__main__":
    main(sys.argv.pop(1))
