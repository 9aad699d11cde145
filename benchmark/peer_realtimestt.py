"""RealtimeSTT's side of ``peer.py``, which starts it with an interpreter that has RealtimeSTT installed.

    python benchmark/peer_realtimestt.py SPEECH.wav PARAMETERS

Plays the file (16 bit, mono, 16 kHz) in real time into an ``AudioToTextRecorder`` that was made with the parameters
(a JSON object). Each line of standard output is a JSON object: first the ``versions`` of the packages, then the
``text`` of each utterance and when it came, ``at`` [s] after the first sample was heard; or an ``error``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import wave
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("RealtimeSTT", "faster-whisper", "ctranslate2", "silero-vad", "onnxruntime", "torch")
#: Length of a chunk of sound [s], as the media node's.
CHUNK = 0.03
#: Silence that is played after the file, as a microphone would go on [s].
SILENCE_AFTER = 3.0


def versions() -> dict[str, str]:
    """What is installed, of what has a part in it."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def play(recorder: Any, path: str, heard: float) -> None:
    """Feed a file; each chunk when its last sample is heard, the first sample being heard at ``heard`` (monotonic)."""
    with wave.open(path) as file:
        rate, width = file.getframerate(), file.getsampwidth()
        sound = file.readframes(file.getnframes()) + bytes(round(SILENCE_AFTER * rate) * width)
    step = round(CHUNK * rate)
    for number, first in enumerate(range(0, len(sound), step * width), start=1):
        time.sleep(max(heard + number * step / rate - time.monotonic(), 0.0))
        recorder.feed_audio(sound[first : first + step * width], rate)


def main() -> None:
    """Command line."""
    # The recorder and its processes print: only our lines may go to the real standard output.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**fields: Any) -> None:
        print(json.dumps(fields), file=lines)

    try:
        from RealtimeSTT import AudioToTextRecorder  # type: ignore[import-not-found]

        recorder = AudioToTextRecorder(use_microphone=False, spinner=False, no_log_file=True, **json.loads(sys.argv[2]))
    except Exception as error:  # whatever is missing there, the other side has to be told
        say(error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
    say(versions=versions())
    ended = threading.Event()
    heard = time.monotonic() + 1.0  # the recorder is listening by then

    def listen() -> None:
        while not ended.is_set():
            text = recorder.text()
            at = time.monotonic() - heard
            if text:
                say(text=text, at=at)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    play(recorder, sys.argv[1], heard)
    ended.set()
    recorder.shutdown()
    listener.join(5.0)


if __name__ == "__main__":
    main()
