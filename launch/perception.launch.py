"""From microphone (or media file) and camera to ``/emotion``: starts, configures and activates all nodes.

    ros2 launch synctva_ros perception.launch.py                               # default microphone, pictures on /image
    ros2 launch synctva_ros perception.launch.py camera:=0 device:=cuda
    ros2 launch synctva_ros perception.launch.py image_topic:=/head/image_raw  # the robot's driver has the camera
    ros2 launch synctva_ros perception.launch.py media:=talk.mp4 whisper:=demo fast:=true
    ros2 launch synctva_ros perception.launch.py --show-args

The nodes come up one after the other, from ``/emotion`` back to the sources, so who listens is there before who
speaks. The launch ends with exit status 1 when a node refuses to start or its process ends: a supervisor (systemd)
can then start it again. Afterwards ``ros2 lifecycle`` may be used on each node as usual.

Voices and faces stay on this machine: ``ROS_AUTOMATIC_DISCOVERY_RANGE`` is LOCALHOST for all nodes unless the
environment sets it already (``ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET ros2 launch ...`` opens them to the network).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

CONFIG = Path(__file__).parents[1] / "config" / "perception.yaml"

ARGUMENTS = (
    DeclareLaunchArgument("media", default_value="", description="Media file to play instead of the microphone"),
    DeclareLaunchArgument(
        "microphone",
        default_value="",
        description="Name, part of the name or index of the input device; empty: the default one (or the one in "
        "config); off: the sound comes on topic audio from elsewhere (a bag)",
    ),
    DeclareLaunchArgument(
        "camera",
        default_value="off",
        description="Index or device file of a camera, a video or a picture; off: the robot's driver publishes "
        "image_topic, or the pictures of the media file are used",
    ),
    DeclareLaunchArgument("image_topic", default_value="image", description="Topic of the pictures (sensor_msgs/Image)"),
    DeclareLaunchArgument(
        "device",
        default_value="",
        choices=["", "auto", "cpu", "cuda"],
        description="Where Whisper and the network run; empty: as config says",
    ),
    DeclareLaunchArgument(
        "whisper",
        default_value="",
        description="Name or folder of a faster-whisper model; demo: the closed-set test model of the built-in "
        "dialogue; empty: as config says",
    ),
    DeclareLaunchArgument("config", default_value=str(CONFIG), description="YAML file of all nodes' parameters"),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and topics"),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="Take the time from /clock"
    ),
    DeclareLaunchArgument(
        "fast",
        default_value="false",
        choices=["true", "false"],
        description="Play the media file as fast as the graph takes it",
    ),
)


def perception(context: LaunchContext) -> list[Any]:
    """Return the nodes, the handler that brings them up in order, and the event that sets it going."""
    given = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    for name in ("config", "media"):
        given[name] = str(Path(given[name]).expanduser()) if given[name] else ""
        if given[name] and not Path(given[name]).is_file():
            raise FileNotFoundError(f"{name}:={given[name]}: there is no such file")
    if given["whisper"] == "demo":
        from synctva_ros.cli import DEMO_WHISPER

        given["whisper"] = str(DEMO_WHISPER)

    # From /emotion back to the sources. An argument that is empty leaves the parameter to the configuration file.
    settings: dict[str, dict[str, Any]] = {
        "emotion": {"device": given["device"]},
        "features": {},
        "transcriber": {"device": given["device"], "model": given["whisper"]},
        "utterance": {},
    }
    if given["camera"] != "off":
        settings["camera"] = {"device": given["camera"]}
    if given["media"]:
        settings["media"] = {"file": given["media"], "realtime": given["fast"] != "true"}
        if given["camera"] != "off":
            settings["media"]["video_rate"] = 0.0  # two sources of pictures would fight
    elif given["microphone"] != "off":
        settings["microphone"] = {"device": given["microphone"]}

    waiting: list[LifecycleNode] = []
    for name, parameters in settings.items():
        # With their types: a device "0" would otherwise be read as a number.
        typed = {key: ParameterValue(value, value_type=type(value)) for key, value in parameters.items() if value != ""}
        node = LifecycleNode(
            package="synctva_ros",
            executable=name,
            name=name,
            namespace=given["namespace"],
            parameters=[given["config"], {"use_sim_time": given["use_sim_time"] == "true", **typed}],
            remappings=[("image", given["image_topic"])],
            output="screen",
            on_exit=[OpaqueFunction(function=ended, args=[name])],
        )
        waiting.append(node)
    proceed = OnStateTransition(entities=[OpaqueFunction(function=bring_up, args=[waiting])])
    return [RegisterEventHandler(proceed), *waiting, change_state(waiting[0], Transition.TRANSITION_CONFIGURE)]


def bring_up(context: LaunchContext, waiting: list[LifecycleNode]) -> list[EmitEvent]:
    """Return the next step after a node changed its state; an exception ends the launch with status 1."""
    event = context.locals.event
    if not waiting or event.action is not waiting[0] or event.goal_state in ("configuring", "activating"):
        return []
    node = waiting[0]
    if (event.start_state, event.goal_state) == ("configuring", "inactive"):
        return [change_state(node, Transition.TRANSITION_ACTIVATE)]
    if event.goal_state != "active":
        step = "configured" if event.start_state == "configuring" else "activated"
        raise RuntimeError(f"{node.node_name} could not be {step}; its error above says why. All nodes are stopped")
    waiting.pop(0)
    return [change_state(waiting[0], Transition.TRANSITION_CONFIGURE)] if waiting else []


def change_state(node: LifecycleNode, transition: int) -> EmitEvent:
    """Return the request of a transition; it waits until the node offers the service."""
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))


def ended(context: LaunchContext, name: str) -> None:
    """End the launch when the process of a node has ended by itself."""
    if not context.is_shutdown:
        raise RuntimeError(f"the process of {name} has ended; its output above says why. All nodes are stopped")


def generate_launch_description() -> LaunchDescription:
    """Return all of it, for ``ros2 launch``."""
    local = EnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", default_value="LOCALHOST")
    return LaunchDescription(
        [
            SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", local),
            *ARGUMENTS,
            OpaqueFunction(function=perception),
        ]
    )
