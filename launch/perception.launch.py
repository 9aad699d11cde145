"""From microphone (or media file) and camera to ``/emotion``: starts, configures and activates all nodes.

    ros2 launch synctva_ros perception.launch.py                               # default microphone, images on /image
    ros2 launch synctva_ros perception.launch.py camera:=0 device:=cuda
    ros2 launch synctva_ros perception.launch.py image_topic:=/head/image_raw  # the robot's driver has the camera
    ros2 launch synctva_ros perception.launch.py media:=talk.mp4 fast:=true
    ros2 launch synctva_ros perception.launch.py --show-args

The nodes come up one after the other, from ``/emotion`` back to the sources: who listens is there before who speaks.
When a node refuses to start, takes longer than ``timeout`` for it, or its process ends, the launch says which one and
ends with exit status 1, so that a supervisor (systemd) can start it again. Once all are active, ``ros2 lifecycle`` may
be used on each of them.

Voices and faces stay on this machine: ``ROS_AUTOMATIC_DISCOVERY_RANGE`` is LOCALHOST for all nodes unless the
environment sets it already (``ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET ros2 launch ...`` opens them to the network).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from launch import LaunchContext, LaunchDescription, actions
from launch.event_handlers import OnShutdown
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition
from rclpy.node import Node

from synctva_ros.config import LAUNCH_ARGUMENTS, plan
from synctva_ros.parameter_file import read_parameter_file
from synctva_ros.ros.environment import check_environment, check_namespace, graph_name, others, wait_for_others

#: How another namespace is given.
NAMESPACE = "namespace:=NAME"


def perception(context: LaunchContext) -> list[Any]:
    """Return the nodes, the handler that brings them up in order, and the event that sets it going."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in LAUNCH_ARGUMENTS}
    for name in ("config", "media") if given["media"] else ("config",):
        given[name] = str(Path(given[name]).expanduser())
        if not Path(given[name]).is_file():
            raise FileNotFoundError(f"{name}:={given[name]}: there is no such file")
    timeout = seconds(given["timeout"])
    check_environment()
    check_namespace(given["namespace"])
    settings = plan(
        media=given["media"],
        microphone=None if given["microphone"] == "off" else given["microphone"],
        camera=None if given["camera"] == "off" else given["camera"],
        whisper=given["whisper"],
        device=given["device"],
        fast=given["fast"] == "true",
    )
    told: list[str] = []
    # A mistake in the file is told here, with its line.
    read_parameter_file(Path(given["config"]), given["namespace"], settings, told.append)
    graph = claim(list(settings), given["namespace"])

    waiting: list[LifecycleNode] = []
    for name, parameters in settings.items():
        # With their types: a device "0" would otherwise be read as a number.
        typed = {key: ParameterValue(value, value_type=type(value)) for key, value in parameters.items()}
        node = LifecycleNode(
            package="synctva_ros",
            executable=name,
            name=name,
            namespace=given["namespace"],
            parameters=[given["config"], {"use_sim_time": given["use_sim_time"] == "true", **typed}],
            remappings=[("image", given["image_topic"])],
            output="screen",
            sigterm_timeout="20",  # a small computer needs more than the usual 5 s to unload torch
            on_exit=[actions.OpaqueFunction(function=ended, args=[name])],
        )
        waiting.append(node)
    return [
        *(actions.LogInfo(msg=sentence) for sentence in told),
        actions.RegisterEventHandler(OnShutdown(on_shutdown=lambda event, context: release(graph))),
        *BringUp(waiting, timeout, partial(give_way, graph, list(settings))).begin(),
    ]


class BringUp:
    """Configures and activates nodes one after the other, and raises, which ends the launch, when one does not come.

    Args:
        waiting: the nodes in their order.
        timeout: how long each of the two may take [s].
        check: raises when the nodes must not come.

    """

    def __init__(self, waiting: list[LifecycleNode], timeout: float, check: Callable[[], None]) -> None:
        self._waiting = waiting
        self._timeout = timeout
        self._check = check
        self._timer: actions.TimerAction | None = None

    def begin(self) -> list[Any]:
        """Return the nodes, the handler of their changes, and the first request."""
        handler = OnStateTransition(entities=[actions.OpaqueFunction(function=self._on_change)])
        return [
            actions.RegisterEventHandler(handler),
            *self._waiting,
            *self._ask(Transition.TRANSITION_CONFIGURE, "configured"),
        ]

    def _ask(self, transition: int, step: str) -> list[Any]:
        late = actions.OpaqueFunction(function=self._late, args=[self._waiting[0], step])
        self._timer = actions.TimerAction(period=self._timeout, actions=[late])
        return [change_state(self._waiting[0], transition), self._timer]

    def _on_change(self, context: LaunchContext) -> list[Any]:
        """Return the next step after a node has changed its state; raise when it refused."""
        event = context.locals.event
        waiting = self._waiting
        if context.is_shutdown or not waiting or event.action is not waiting[0]:
            return []
        if event.goal_state in ("configuring", "activating"):
            return []
        if self._timer is not None:
            self._timer.cancel()
        self._check()
        if (event.start_state, event.goal_state) == ("configuring", "inactive"):
            return self._ask(Transition.TRANSITION_ACTIVATE, "activated")
        if event.goal_state != "active":
            step = "configured" if event.start_state == "configuring" else "activated"
            raise RuntimeError(
                f"{waiting[0].node_name} could not be {step}: its error above says why; everything stops"
            )
        waiting.pop(0)
        if not waiting:
            return [actions.LogInfo(msg="all nodes are active")]
        return self._ask(Transition.TRANSITION_CONFIGURE, "configured")

    def _late(self, context: LaunchContext, node: LifecycleNode, step: str) -> None:
        raise RuntimeError(
            f"{node.node_name} was not {step} within {self._timeout:g} s: its output above says how far it came; give "
            "it longer with timeout:=SECONDS; everything stops"
        )


def seconds(text: str) -> float:
    """Read the argument ``timeout``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ValueError(f"timeout:={text}: give a number of seconds above 0")
    return value


def claim(names: list[str], namespace: str) -> Node:
    """Return a node that stands for this graph; raise when another one is there: they would mix their answers."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)  # the command line is that of the launch
    graph = rclpy.create_node(graph_name(), namespace=namespace, context=context)
    if other := wait_for_others(graph, names, NAMESPACE):
        release(graph)
        raise RuntimeError(other)
    return graph


def release(graph: Node) -> None:
    """Take the node down that stood for this graph; the launch may be told to end more than once."""
    if graph.context.ok():
        graph.destroy_node()
        graph.context.shutdown()


def give_way(graph: Node, names: list[str]) -> None:
    """Raise when another graph was there before and has been found only now."""
    if other := others(graph, names, NAMESPACE, own=1):
        raise RuntimeError(other)


def change_state(node: LifecycleNode, transition: int) -> actions.EmitEvent:
    """Return the request of a transition; it waits until the node offers the service."""
    return actions.EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))


def ended(context: LaunchContext, name: str) -> None:
    """End the launch when the process of a node has ended by itself."""
    if not context.is_shutdown:
        raise RuntimeError(f"the process of {name} has ended: its output above says why; everything stops")


def generate_launch_description() -> LaunchDescription:
    """Return all of it, for ``ros2 launch``."""
    local = EnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", default_value="LOCALHOST")
    share = Path(__file__).parents[1]
    arguments = [
        actions.DeclareLaunchArgument(
            argument.name,
            default_value=str(share / argument.default) if argument.name == "config" else argument.default,
            description=argument.meaning,
            choices=list(argument.choices) or None,
        )
        for argument in LAUNCH_ARGUMENTS
    ]
    environment = actions.SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", local)
    return LaunchDescription([*arguments, environment, actions.OpaqueFunction(function=perception)])
