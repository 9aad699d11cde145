"""The nodes as they run on a robot, for the benchmarks: all in one process or one each; and who watches them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

Value = bool | int | float | str
Settings = dict[str, dict[str, Value]]
#: A forked process would count what its parent had imported.
SPAWN = get_context("spawn")


class Observer:
    """Watches from outside, and drives nodes in other processes through their lifecycle services."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        rclpy.init()
        self.node = Node("observer")
        executor = SingleThreadedExecutor()
        executor.add_node(self.node)
        threading.Thread(target=executor.spin, daemon=True).start()

    def bring_up(self, name: str) -> None:
        """Configure and activate a node in another process."""
        from lifecycle_msgs.msg import State, Transition
        from lifecycle_msgs.srv import ChangeState, GetState

        change = self.node.create_client(ChangeState, f"{name}/change_state")
        get = self.node.create_client(GetState, f"{name}/get_state")
        steps = (
            (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE),
            (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE),
        )
        deadline = time.monotonic() + 120.0
        for transition, before, after in steps:
            # A request or its answer may be lost so soon after discovery: ask for the state, and send it again.
            while (state := self._ask(get, GetState.Request())) != after:
                if time.monotonic() > deadline:
                    sys.exit(f"node {name} is in state {state}, not {after}; its log above says why")
                if state == before:
                    change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.node.destroy_client(change)
        self.node.destroy_client(get)

    def _ask(self, client: Any, request: Any) -> int | None:
        future = client.call_async(request)
        deadline = time.monotonic() + 2.0
        while not future.done() and time.monotonic() < deadline:
            time.sleep(0.02)
        return future.result().current_state.id if future.done() else None


class OneProcess:
    """All nodes in one process."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self.pid = pid
        self._connection = connection

    def threads(self) -> dict[int, str]:
        """The names of its Python threads by their kernel ids."""
        self._connection.send(True)
        names: dict[int, str] = self._connection.recv()
        return names


def in_one_process(stack: ExitStack, nodes: list[str], settings: Settings) -> OneProcess:
    """Start the nodes as ``synctva run`` does; they end with the stack."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_run, args=(there, nodes, settings), daemon=True)
    process.start()
    there.close()  # so that the end of the process is seen here
    stack.callback(process.join, 30)
    stack.callback(here.send, False)
    here.recv()
    assert process.pid is not None
    return OneProcess(here, process.pid)


def _run(connection: Connection, nodes: list[str], settings: Settings) -> None:
    from synctva_ros.ros.graph import Graph

    graph = Graph({name: settings.get(name, {}) for name in nodes}, None, lambda emotion: None)
    try:
        graph.start()
        connection.send(True)
        while connection.recv():
            connection.send({thread.native_id: thread.name for thread in threading.enumerate()})
    finally:
        graph.stop()


def in_a_process_each(stack: ExitStack, observer: Observer, nodes: list[str], settings: Settings) -> dict[str, int]:
    """Start them as ``perception.launch.py`` does, in the order given; return their process ids."""
    pids = {}
    for name in nodes:
        command = [sys.executable, "-m", "synctva_ros.ros", name, "--ros-args"]
        for key, value in settings.get(name, {}).items():
            command += ["-p", f"{key}:={str(value).lower() if isinstance(value, bool) else value}"]
        process = subprocess.Popen(command)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        pids[name] = process.pid
    for name in nodes:
        observer.bring_up(name)
    return pids
