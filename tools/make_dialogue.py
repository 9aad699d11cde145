"""Makes the demo dialogue: ``python tools/make_dialogue.py --out DIR``.

Writes ``dialogue.flac`` (16 kHz, mono) and ``dialogue.json``, its ground truth: ``sample_rate``, ``voices`` and
``turns`` of ``speaker``, ``text``, ``emotion``, ``start`` and ``end``. Start and end are the first and the last 10 ms
frame of the clean turn that is above -40 dB of its loudest frame, in seconds from the start of the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from synctva_ros.events import FloatArray
from synctva_ros.training.data.speech_synthesis import SAMPLE_RATE, speech_bounds, synthesise

#: Held-out voices: the demo recogniser has not been trained on them.
VOICES = {"anna": "en-us+f2", "ben": "en-us+m3"}
SEED = 0
LEAD_IN = 1.0
LEAD_OUT = 2.0
PAUSES = (1.2, 2.0)
PEAK = 0.5
NOISE_DBFS = -65.0

#: Speaker, emotion, words.
SCRIPT = (
    ("anna", "neutral", "Good morning and welcome back to the office."),
    ("ben", "neutral", "I have put your letters on the desk."),
    ("anna", "joy", "I got the job and I am so happy!"),
    ("ben", "surprise", "Oh wow I never expected such a surprise!"),
    ("ben", "joy", "This is the best news of the whole year!"),
    ("anna", "sadness", "It breaks my heart to leave my friends behind."),
    ("anna", "fear", "I am scared of living alone in a strange city."),
    ("ben", "sadness", "I will miss you more than words can say."),
    ("anna", "disgust", "The old kitchen smelled like rotten fish."),
    ("ben", "anger", "How dare your landlord lie to you like that!"),
    ("anna", "anger", "He cheated me and I am absolutely furious!"),
    ("ben", "neutral", "Let us meet again on Tuesday at noon."),
)


def make_dialogue() -> tuple[FloatArray, dict[str, object]]:
    """Reads the script aloud.

    Returns:
        Mono sound ``[samples]`` at 16 kHz in [-1, 1], and the ground truth as it is written to ``dialogue.json``.

    Raises:
        SynthesisError: eSpeak NG is absent or failed.
    """
    rng = np.random.default_rng(SEED)
    pieces: list[FloatArray] = [np.zeros(round(LEAD_IN * SAMPLE_RATE), dtype=np.float32)]
    turns: list[dict[str, object]] = []
    position = len(pieces[0])
    for index, (speaker, emotion, text) in enumerate(SCRIPT):
        spoken = synthesise(text, VOICES[speaker])
        first, last = speech_bounds(spoken)
        spoken = spoken[first:last] * np.float32(PEAK / np.abs(spoken).max())
        turns.append(
            {
                "speaker": speaker,
                "text": text,
                "emotion": emotion,
                "start": round(position / SAMPLE_RATE, 4),
                "end": round((position + len(spoken)) / SAMPLE_RATE, 4),
            }
        )
        pause = LEAD_OUT if index == len(SCRIPT) - 1 else rng.uniform(*PAUSES)
        silence = np.zeros(round(pause * SAMPLE_RATE), dtype=np.float32)
        pieces += [spoken, silence]
        position += len(spoken) + len(silence)
    clean = np.concatenate(pieces)
    noise = rng.normal(0.0, 10 ** (NOISE_DBFS / 20), len(clean)).astype(np.float32)
    return clean + noise, {"sample_rate": SAMPLE_RATE, "voices": VOICES, "turns": turns}


def write_flac(path: Path, samples: FloatArray) -> None:
    """Writes mono sound ``[samples]`` at 16 kHz in [-1, 1] as 16-bit FLAC."""
    import av

    pcm = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(pcm[None, :], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (frame, None):
            container.mux(stream.encode(part))


def main() -> None:
    """Writes the dialogue and its ground truth into a folder."""
    parser = argparse.ArgumentParser(description="Make the demo dialogue and its ground truth with eSpeak NG.")
    parser.add_argument("--out", type=Path, required=True, help="folder for dialogue.flac and dialogue.json")
    out: Path = parser.parse_args().out
    samples, truth = make_dialogue()
    out.mkdir(parents=True, exist_ok=True)
    write_flac(out / "dialogue.flac", samples)
    (out / "dialogue.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    print(f"{out / 'dialogue.flac'}: {len(SCRIPT)} turns, {len(samples) / SAMPLE_RATE:.1f} s")


if __name__ == "__main__":
    main()
