"""The command ``synctva``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synctva_ros.training import command

DEMO = Path(__file__).parent / "demo"
DEMO_WHISPER = Path(__file__).parent / "weights" / "whisper_demo"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    main = argparse.ArgumentParser(
        prog="synctva", description="How the person in front of the robot feels, from words, voice and face."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="the whole graph in one process",
        description="Start the same nodes as perception.launch.py in one process and show what comes on /emotion. "
        "Nothing is stored, and nothing leaves this machine unless ROS_AUTOMATIC_DISCOVERY_RANGE allows it.",
    )
    sound = run.add_mutually_exclusive_group(required=True)
    sound.add_argument("--media", metavar="FILE", type=Path, help="play a media file; ends with it")
    sound.add_argument(
        "--mic", metavar="DEVICE", nargs="?", const="", help="a microphone (name or index); until Ctrl-C"
    )
    run.add_argument(
        "--camera", metavar="DEVICE", nargs="?", const="0", help="a camera (index or device file), a video or a picture"
    )
    run.add_argument("--config", metavar="FILE", type=Path, help="parameters, as in config/perception.yaml")
    run.add_argument("--json", action="store_true", help="one JSON object per message on standard output")
    run.add_argument("--fast", action="store_true", help="play the file as fast as the graph takes it")
    run.add_argument(
        "--whisper",
        metavar="MODEL",
        help="name or folder of a faster-whisper model; 'demo' for the closed-set test model",
    )
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where Whisper and the network run")
    run.add_argument("--namespace", metavar="NAME", default="", help="of all nodes and topics")
    run.add_argument(
        "--set",
        metavar="NODE.PARAMETER=VALUE",
        action="append",
        default=[],
        type=_setting,
        help="one parameter, wins over --config; may be given again",
    )
    demo = commands.add_parser(
        "demo",
        help="play the built-in dialogue",
        description="Play the built-in two-speaker dialogue through the graph.",
    )
    demo.add_argument("--fast", action="store_true", help="do not wait for the speech to be spoken")
    command.add_commands(commands)
    return main


def _setting(text: str) -> tuple[str, str, Any]:
    """Split NODE.PARAMETER=VALUE; the value is read as YAML does."""
    import yaml

    name, equals, value = text.partition("=")
    node, dot, parameter = name.partition(".")
    if not (equals and dot and node and parameter):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NODE.PARAMETER=VALUE (utterance.hangover=0.3)")
    return node, parameter, yaml.safe_load(value) if value else ""  # YAML would make nothing of an empty text


def run(arguments: argparse.Namespace, seen: list[dict[str, Any]] | None = None) -> int:
    """Bring the graph up and show what it says, which is also put into ``seen``; return the exit status."""
    from rich.console import Console

    from synctva_ros.view import show

    if arguments.config is not None and not arguments.config.is_file():
        return _fail(f"{arguments.config}: there is no such file (--config)")
    nodes, overrides = plan(arguments)
    console = Console(highlight=False)

    def on_emotion(emotion: dict[str, Any]) -> None:
        if seen is not None:
            seen.append(emotion)
        if arguments.json:
            print(json.dumps(emotion, ensure_ascii=False), flush=True)
        else:
            show(console, emotion)

    return _serve(nodes, arguments.config, overrides, on_emotion, arguments.namespace)


def plan(arguments: argparse.Namespace) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Which nodes the options of ``run`` ask for, and the parameters that they set per node."""
    nodes = ["utterance", "transcriber", "features", "emotion"]
    overrides: dict[str, dict[str, Any]] = {}

    def override(node: str, **values: Any) -> None:
        overrides.setdefault(node, {}).update(values)

    if arguments.media is not None:
        nodes.append("media")
        override("media", file=str(arguments.media.expanduser()), realtime=not arguments.fast)
    else:
        nodes.append("microphone")
        if arguments.mic:
            override("microphone", device=arguments.mic)
    if arguments.camera is not None:
        nodes.append("camera")
        override("camera", device=arguments.camera)
        if arguments.media is not None:
            override("media", video_rate=0.0)  # two sources of pictures would fight, and this one was asked for
    if arguments.whisper is not None:
        override("transcriber", model=str(DEMO_WHISPER) if arguments.whisper == "demo" else arguments.whisper)
    if arguments.device is not None:
        override("transcriber", device=arguments.device)
        override("emotion", device=arguments.device)
    for node, parameter, value in arguments.set:
        override(node, **{parameter: value})
    return nodes, overrides


def _serve(
    nodes: list[str], config: Path | None, overrides: dict[str, dict[str, Any]], on_emotion: Any, namespace: str
) -> int:
    # Voices and faces stay on this machine unless whoever starts the graph says otherwise.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        from synctva_ros.nodes.graph import NODES, Graph, GraphError
        from synctva_ros.nodes.messages import emotion_to_dict
    except ImportError as error:
        return _fail(f"{error}: ROS 2 is missing; install the package with pip, or source a ROS 2 workspace")

    unknown = sorted(set(overrides) - set(NODES))
    if unknown:
        return _fail(f"there is no node {unknown[0]!r}; the nodes are {', '.join(NODES)}")
    stop = threading.Event()
    graph: Graph | None = None
    try:
        graph = Graph(nodes, config, overrides, lambda message: on_emotion(emotion_to_dict(message)), namespace)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        graph.start()
        while not stop.wait(0.05):
            if graph.finished:
                return 0
        return 130 if "media" in nodes else 0
    except GraphError as error:
        return _fail(str(error))
    except Exception as error:  # rclpy raises its own kinds for a bad YAML file or namespace
        return _fail(f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        if graph is not None:
            graph.stop()


def _fail(sentence: str) -> int:
    print(f"synctva: {sentence}", file=sys.stderr)
    return 1


def demo(arguments: argparse.Namespace) -> int:
    """Play the built-in dialogue and compare what was understood with its script; return the exit status."""
    from rich.console import Console
    from rich.table import Table

    script = json.loads((DEMO / "dialogue.json").read_text())["turns"]
    console = Console(highlight=False)
    console.print(
        "A synthesised dialogue of two speakers, recognised by the closed-set Whisper that comes with the package\n"
        "(it knows these sentences only; for real speech give --whisper a real model).\n"
    )
    line = ["run", "--media", str(DEMO / "dialogue.flac"), "--whisper", "demo", *(["--fast"] if arguments.fast else [])]
    seen: list[dict[str, Any]] = []
    status = run(parser().parse_args(line), seen)
    if status:
        return status
    table = Table("turn", "said", "understood", "meant", "estimated", title="Script and result")
    words = labels = 0
    for number, turn in enumerate(script):
        got = seen[number] if number < len(seen) else None
        text = got["text"] if got else "(nothing)"
        label = "" if not got else got["label"] if got["status"] == "FINAL" else f"({got['label']}?)"
        words += text == turn["text"]
        labels += label == turn["emotion"]
        table.add_row(str(number), turn["text"], "same" if text == turn["text"] else text, turn["emotion"], label)
    console.print(table)
    console.print(f"{len(seen)} of {len(script)} turns answered, {words} with the right words, ", end="")
    console.print(f"{labels} with the emotion of the script.")
    return 0 if len(seen) == len(script) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = parser().parse_args(argv)
    if "handler" in arguments:
        return command.run(arguments.handler, arguments)
    if arguments.command == "demo":
        return demo(arguments)
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
