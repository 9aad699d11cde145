"""What ROS finds around it: looked at before ROS does, whose own words do not say what to do."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Seconds after which nodes of other processes on this machine have been found.
DISCOVERY = 1.5


def check_environment() -> None:
    """Look at the domain and at the folder of the logs.

    Raises:
        ValueError: ROS would refuse to start; the sentence says which variable to set.
    """
    domain = os.environ.get("ROS_DOMAIN_ID", "")
    if domain and not (domain.isascii() and domain.isdigit() and int(domain) <= 232):
        raise ValueError(f"ROS_DOMAIN_ID is {domain!r}: set it to a whole number from 0 to 101")
    home = os.environ.get("ROS_HOME") or (os.environ.get("HOME", "") and f"{os.environ['HOME']}/.ros")
    folder = os.environ.get("ROS_LOG_DIR") or (home and f"{home}/log")
    remedy = "set ROS_LOG_DIR to a folder that can be written"
    if not folder:
        raise ValueError(f"ROS has no folder for its logs, as HOME is not set: {remedy}")
    try:
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"ROS cannot write its logs to {folder} ({error}): {remedy}") from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"ROS cannot write its logs to {folder}: {remedy}")


def check_namespace(namespace: str) -> None:
    """Look at a namespace; an empty one is none.

    Raises:
        ValueError: ROS would refuse it.
    """
    if namespace.strip("/") and not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", namespace, re.ASCII):
        raise ValueError(
            f"{namespace!r} is no namespace: give letters, digits and _, not a digit first, with / between the parts"
        )


def wait_for_others(node: Any, names: Iterable[str], namespace: str, own: int, since: float) -> str:
    """Look for other nodes of the same names in the same domain and namespace.

    Args:
        node: that is there; its process may have nodes of these names itself.
        names: of the nodes.
        namespace: of the nodes.
        own: how many nodes of each name belong to the caller.
        since: when ``node`` came, by ``time.monotonic``: discovery takes a while from then on.

    Returns:
        The full name of one that is running already; empty when there is none.
    """
    place = f"/{namespace.strip('/')}"
    while True:
        found = Counter(name for name, where in node.get_node_names_and_namespaces() if where == place)
        for name in names:
            if found[name] > own:
                return f"{place.rstrip('/')}/{name}"
        if time.monotonic() - since > DISCOVERY:
            return ""
        time.sleep(0.05)


def taken(name: str, namespace: str) -> str:
    """The sentence for a node that is running already; ``namespace`` is how one is given."""
    domain = os.environ.get("ROS_DOMAIN_ID") or "0"
    return (
        f"a node {name} is running already in the ROS domain {domain}: end it, give this one another namespace "
        f"({namespace}) or set ROS_DOMAIN_ID to another number"
    )
