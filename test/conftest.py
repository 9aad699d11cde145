"""What all tests need: ROS traffic stays on this machine and apart from other graphs on it."""

from __future__ import annotations

import os
import sys

# Read when a ROS context is created, by these tests and by the processes that they start.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)  # DDS allows 0 to 101 beside Linux's ephemeral ports
# Two cores that fight over small matrices take many times as long as one; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The ROS wheels set no AMENT_PREFIX_PATH; their resource index is in the environment's prefix.
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
