"""How well turns are found in rooms: conversations with the truth beside them, through the street's first stage.

    python living_room.py make ROOMS --voices DIR ...
    python benchmark/turns.py ROOMS --tool living_room.py [--set detector=webrtc ...]

``--tool`` is a file with a function ``score``: what it prints is described there. No words, voices or faces are
looked at here; ``synctva recognize`` answers the same turns with emotions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from synctva_ros.config import Turns
from synctva_ros.events import AudioChunk, Utterance
from synctva_ros.sources.media import MediaFile
from synctva_ros.street.playback import Sentences
from synctva_ros.street.table import STREET


def turns_of(path: Path, settings: dict[str, Any]) -> tuple[list[Utterance], float, float]:
    """The utterances of a file, the seconds of sound in it, and the seconds of one core that finding them took."""
    config = Turns(**{"speculate": False, "provisional_interval": 0.0} | settings)
    (stage,) = STREET["utterance"](config, Sentences(print, print))
    found: list[Utterance] = []
    heard = 0.0
    chunks = [item for item in MediaFile(path, video_rate=0.0).play(0) if isinstance(item, AudioChunk)]
    began = time.process_time()
    for chunk in chunks:
        found += [event for event in stage.process(chunk) if isinstance(event, Utterance)]
        heard += len(chunk.samples) / chunk.sample_rate
    found += stage.flush()
    return [utterance for utterance in found if utterance.is_final], heard, time.process_time() - began


def main() -> None:
    """Find the turns and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", type=Path, help="folder with NN.flac and NN.json")
    parser.add_argument("--tool", type=Path, required=True, help="living_room.py")
    parser.add_argument("--set", action="append", default=[], metavar="PARAMETER=VALUE", help="of the node utterance")
    arguments = parser.parse_args()
    known = {each.name: each for each in Turns.params()}
    settings = {name: known[name].read(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    seconds = work = 0.0
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        for path in sorted(arguments.rooms.glob("*.flac")):
            found, heard, worked = turns_of(path, settings)
            seconds, work = seconds + heard, work + worked
            for one in found:
                row = {"file": path.name, "label": "neutral", "speaker_id": one.speaker_id}
                print(json.dumps(row | {"stream_start": one.stream_start, "stream_end": one.stream_end}), file=lines)
        lines.flush()
        named = importlib.util.spec_from_file_location("living_room", arguments.tool)
        assert named is not None
        assert named.loader is not None
        tool = importlib.util.module_from_spec(named)
        named.loader.exec_module(tool)
        tool.score(SimpleNamespace(out=arguments.rooms, lines=lines.name))
    print(f"{100 * work / seconds:.2f} % of one core while listening to {seconds:.0f} s")


if __name__ == "__main__":
    main()
