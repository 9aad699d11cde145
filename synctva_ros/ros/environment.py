"""What ROS finds around it: looked at before ROS does, whose own words do not say what to do."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

#: Seconds after which nodes of other processes on this machine have been found, as a rule: DDS asks again after 3 s.
DISCOVERY = 1.5
#: Beginning of the name of the node that stands for a whole graph.
GRAPH = "_synctva_graph_"


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


def graph_name() -> str:
    """Name for the node that a graph has before all others: of two graphs the one that sorts first was there first.

    ROS's tools hide names with a _ in front.
    """
    return f"{GRAPH}{time.time_ns():019d}_{os.getpid()}"


def wait_for_others(node: Any, names: Collection[str], option: str) -> str:
    """Look for others as long as it takes to discover them; see :func:`others`."""
    until = time.monotonic() + DISCOVERY
    while not (sentence := others(node, names, option)) and time.monotonic() < until:
        time.sleep(0.05)
    return sentence


def others(node: Any, names: Collection[str], option: str, own: int = 0, *, is_up: bool = False) -> str:
    """Whether this graph has to give way to another one in the same domain and namespace, and why.

    Before a graph has nodes it gives way to whoever has, and to a graph that was there before and will have some. Once
    it has them, only to a graph that was there before and has some too, as discovery may take longer than usual; and
    while it starts, to nodes that belong to no graph. So of several graphs that start at once exactly one goes on.

    Args:
        node: of the caller, named by :func:`graph_name`.
        names: of the graph's nodes.
        option: how another namespace is given.
        own: how many nodes of each name the caller has.
        is_up: the caller's graph has been started.

    Returns:
        The sentence that says so; empty when there is no reason.
    """
    place, me = node.get_namespace(), node.get_name()
    found = Counter(name for name, where in node.get_node_names_and_namespaces() if where == place)
    graphs = [name for name in found if name.startswith(GRAPH) and name != me]
    running = [name for name in names if found[name] > own]
    is_later = any(name < me for name in graphs)
    if own and (not running or (not is_later and (graphs or is_up))):
        return ""
    if not running and not is_later:
        return ""
    what = f"a node {place.rstrip('/')}/{running[0]} is running" if running else "a graph of these nodes is starting"
    return (
        f"{what} already in the ROS domain {os.environ.get('ROS_DOMAIN_ID') or '0'}: end it, give this one another "
        f"namespace ({option}) or set ROS_DOMAIN_ID to another number"
    )
