"""One node as a process: ``python -m synctva_ros.ros NODE --ros-args ...``, and what the executables call."""

from __future__ import annotations

import sys

from synctva_ros.ros.graph import create_node
from synctva_ros.ros.node import run_node


def main(name: str) -> None:
    """Run a node until it is told to stop."""
    run_node(lambda: create_node(name), sys.argv)


if __name__ == "__main__":
    main(sys.argv.pop(1))
