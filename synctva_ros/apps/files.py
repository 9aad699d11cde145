"""``synctva recognize``: files and folders through the street, as fast as the machine can go."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from synctva_ros.apps.checks import check_file, check_nodes, check_output
from synctva_ros.apps.ending import Failure
from synctva_ros.config import Overrides, plan, with_settings
from synctva_ros.plural import counted


def recognize(arguments: argparse.Namespace) -> int:
    """Estimate what is in files and show or write it; return the exit status, 1 if a file could not be read.

    Raises:
        Failure, ImportError, OSError, ValueError: it cannot start; the sentence says why.
    """
    from synctva_ros.apps.view import open_console

    errors = open_console(stderr=True)

    def say(sentence: str) -> None:
        errors.print(sentence, markup=False, soft_wrap=True)

    modalities, nodes = _planned(arguments, say)
    if arguments.plot is not None:
        from synctva_ros.apps.timeline import check_timeline

        check_timeline(arguments.plot)  # said before the work, not after it
        check_output(arguments.plot)
    if arguments.json not in (None, "-"):
        check_output(Path(arguments.json))

    from synctva_ros.sources.files import LineWriter, find_files, shown, writing

    found = find_files(arguments.paths)
    if not found.files:
        raise Failure(f"there are no media files or pictures in {', '.join(map(shown, arguments.paths))}")
    texts: dict[Path, str] = {}
    people: dict[Path, str] = {}
    for option, table, column, said in (
        ("--transcripts", arguments.transcripts, "text", texts),
        ("--speakers", arguments.speakers, "speaker", people),
    ):
        if table is not None:
            from synctva_ros.apps.recognize import read_column

            check_file(table, option)
            said.update(read_column(table, column, list(found.files), say))
    if not any(path.exists() for path in found.files):
        missing = ", ".join(map(shown, found.files))
        raise Failure(f"{missing}: there is no such file")  # before the models are loaded for it
    if len(found.files) == 1:
        _try_to_open(found.files[0])

    say("Loading the models, which takes 5 to 20 s ...")
    import cv2
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from synctva_ros.apps.recognize import Recognizer
    from synctva_ros.apps.view import show_line
    from synctva_ros.sources.microphone import SourceError

    torch.set_num_threads(1)  # more only get in each other's way with networks this small
    cv2.setNumThreads(1)
    recognizer = Recognizer(modalities, nodes, warn=say)
    # At a terminal the lines have to be printed above the bar, by who draws it.
    lines = errors if sys.stdout.isatty() and errors.is_terminal else open_console()
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
        for path in bar.track(_in_order(found.files, people), description="files"):
            try:
                for emotion in recognizer.recognize(path, texts.get(path), people.get(path, "")):
                    if arguments.plot is not None:
                        emotions.append(emotion)
                    if file is not None:
                        file.write(emotion)
                    if arguments.json == "-":
                        with writing("standard output"):
                            print(json.dumps(emotion, ensure_ascii=False), flush=True)
                    else:
                        show_line(lines, emotion)
            except SourceError as error:
                unread += 1
                say(str(error))
    counts = recognizer.counters
    ending = [f"{counted(counts.utterances, 'utterance')} in {counted(len(found.files), 'file')}"]
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
        from synctva_ros.apps.timeline import draw_timeline

        with writing(arguments.plot):
            draw_timeline(emotions, arguments.plot)
    return 1 if unread else 0


def _in_order(files: Sequence[Path], people: Mapping[Path, str]) -> list[Path]:
    """The files of people in the order of their table, which is that in which they spoke, and then the others."""
    known = set(files)
    return [*(file for file in people if file in known), *(file for file in files if file not in people)]


def _planned(arguments: argparse.Namespace, say: Callable[[str], None]) -> tuple[str, Overrides]:
    """The modalities and parameters that the options ask for, and that can be had."""
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
            raise Failure("--modalities t: without --transcripts or --whisper there are no words")
        say("Without --transcripts or --whisper there are no words: voice and face only.")
        modalities = modalities.replace("t", "")  # their encoder takes longest to load
    needed = dict(nodes)
    needed["transcriber"] = {"model": "", **nodes["transcriber"]}
    if "v" not in modalities:
        del needed["faces"]
    check_nodes(needed)
    return modalities, nodes


def _try_to_open(path: Path) -> None:
    """The only file that there is can be read.

    Raises:
        Failure: it cannot.
    """
    from synctva_ros.sources.files import is_image, read_image
    from synctva_ros.sources.media import MediaFile
    from synctva_ros.sources.microphone import SourceError

    try:
        if is_image(path):
            read_image(path)
        else:
            MediaFile(path, warn=lambda sentence: None, needs_sound=False)
    except SourceError as error:
        raise Failure(str(error)) from error
