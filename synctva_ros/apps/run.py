"""``synctva run`` and ``synctva demo``: the whole graph in one process, and what a terminal shows of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synctva_ros.apps import ending
from synctva_ros.apps.checks import check_file, check_nodes
from synctva_ros.apps.ending import Failure
from synctva_ros.config import DEMO, Overrides, plan, with_settings
from synctva_ros.ros.environment import check_environment, check_namespace

if TYPE_CHECKING:
    from synctva_ros.events import Emotion


def run(arguments: argparse.Namespace) -> int:
    """Bring the graph up and show what it says; return the exit status.

    Raises:
        Failure, OSError, ValueError: it cannot start or go on; the sentence says why.
    """
    nodes = planned(arguments)
    check(nodes, arguments.config, arguments.namespace)
    return show_graph(nodes, arguments.config, arguments.namespace, as_json=arguments.json)


def planned(arguments: argparse.Namespace) -> Overrides:
    """The nodes and parameters that the options ask for.

    Raises:
        ValueError: ``--set`` names what there is not.
    """
    nodes = plan(
        media="" if arguments.media is None else str(arguments.media),
        microphone=arguments.mic,
        camera=arguments.camera,
        whisper=arguments.whisper or "",
        device=arguments.device or "",
        fast=arguments.fast,
    )
    return with_settings(nodes, arguments.set)


def check(nodes: Overrides, config: Path | None, namespace: str) -> None:
    """Look at all that can be looked at before libraries and models are loaded.

    Raises:
        Failure, OSError, ValueError: something is not there or not right; the sentence says what.
    """
    check_environment()
    check_namespace(namespace)
    written: Overrides = {}
    told: list[str] = []
    if config is not None:
        from synctva_ros.parameter_file import read_parameter_file

        check_file(config, "--config")
        written = read_parameter_file(config, namespace, nodes, told.append)
    check_nodes({node: written.get(node, {}) | given for node, given in nodes.items()})
    for sentence in told:
        ending.say(sentence)


def show_graph(
    nodes: Overrides,
    config: Path | None = None,
    namespace: str = "",
    *,
    as_json: bool = False,
    seen: list[dict[str, Any]] | None = None,
) -> int:
    """Run the graph and show what it says; final estimates are also put into ``seen``; return the exit status."""
    from rich.live import Live

    from synctva_ros.apps.view import open_console, provisional_line, show
    from synctva_ros.sources.files import writing

    console = open_console()
    # Its line is that of the person who is speaking; elsewhere than at a terminal nothing can be taken back.
    live = Live(console=console, auto_refresh=False, transient=True)

    def on_emotion(event: Emotion) -> None:
        emotion = event.as_json()
        is_provisional = emotion["status"] == "PROVISIONAL"
        if seen is not None and not is_provisional:
            seen.append(emotion)
        if as_json:
            with writing("standard output"):
                print(json.dumps(emotion, ensure_ascii=False), flush=True)
        elif is_provisional:
            if console.is_terminal:
                live.update(provisional_line(emotion), refresh=True)
        else:
            live.update("", refresh=True)
            show(console, emotion)

    with live if console.is_terminal and not as_json else nullcontext():
        return _serve(nodes, config, on_emotion, namespace)


def _serve(nodes: Overrides, config: Path | None, on_emotion: Callable[[Emotion], None], namespace: str) -> int:
    # Voices and faces stay on this machine unless whoever starts the graph says otherwise. A file that is played needs
    # nobody else: two of them at once must not hear each other.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF" if "media" in nodes else "LOCALHOST")
    try:
        from synctva_ros.ros import graph as ros
    except ImportError as error:
        raise Failure(
            f"{error}: ROS 2 is missing; install the package with pip, or source a ROS 2 workspace"
        ) from error

    ending.quieten(ros.quieten)
    unwritten: list[OSError] = []

    def write(emotion: Emotion) -> None:
        """On a thread of the graph: what goes wrong there is for the main thread."""
        try:
            on_emotion(emotion)
        except OSError as error:
            unwritten.append(error)

    graph: ros.Graph | None = None
    try:
        with ending.loading():
            graph = ros.Graph(nodes, config, write, namespace)
            print("Loading the models, which takes 5 to 20 s ...", file=sys.stderr)
            graph.start()
        while not graph.finished:
            if unwritten:
                raise unwritten[0]
            time.sleep(0.05)
        return 0
    except ros.FAILURES as error:
        raise Failure(str(error).splitlines()[0]) from error
    finally:
        if graph is not None:
            graph.stop()
        ros.end()


def demo(arguments: argparse.Namespace) -> int:
    """Play the built-in dialogue and compare what was understood with its script; return the exit status."""
    from rich.table import Table

    from synctva_ros.apps.view import open_console

    script = json.loads((DEMO / "dialogue.json").read_text(encoding="utf-8"))["turns"]
    console = open_console()
    console.print(
        "A synthesised dialogue of two speakers, recognised by the closed-set Whisper that comes with the package\n"
        "(it knows these sentences only; for real speech give --whisper a real model). "
        + ("It takes some 10 s.\n" if arguments.fast else "It takes a minute; --fast does not wait for the speech.\n")
    )
    nodes = plan(media=str(DEMO / "dialogue.flac"), whisper="demo", fast=arguments.fast)
    check_nodes(nodes)
    seen: list[dict[str, Any]] = []
    status = show_graph(nodes, seen=seen)
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
