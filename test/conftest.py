"""What all tests need: ROS traffic stays on this machine and apart from other graphs on it."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from pathlib import Path
from typing import IO

from hypothesis import HealthCheck, settings


def own_domain() -> tuple[int, IO[str]]:
    """A ROS domain that no other run of these tests on this machine is in, and the lock that keeps it so."""
    for number in range(100):  # DDS allows 0 to 101 beside Linux's ephemeral ports; 0 is everybody's
        domain = 1 + (os.getpid() + number) % 100
        lock = (Path(tempfile.gettempdir()) / f"synctva_ros_test_domain_{domain}").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return domain, lock
    raise RuntimeError("100 runs of these tests go on at once")


DOMAIN, LOCK = own_domain()
# Read when a ROS context is created, by these tests and by the processes that they start.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
# Two cores that fight over small matrices take many times as long as one; read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The ROS wheels set no AMENT_PREFIX_PATH; their resource index is in the environment's prefix.
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
# No test depends on how fast the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
