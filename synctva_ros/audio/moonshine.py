"""Moonshine: a recogniser whose work grows with the length of the speech (https://arxiv.org/abs/2410.15608).

Whisper fills everything up to 30 s; this network hears the samples themselves, as many as there are. The package
``moonshine-voice`` (MIT, Moonshine AI) carries the files; they are taken by their SHA-256, none of the package's code
is run, and onnxruntime, which comes with faster-whisper, computes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from synctva_ros.audio.recogniser import Heard, is_loop
from synctva_ros.events import SAMPLE_RATE, FloatArray
from synctva_ros.weights import WeightsError
from synctva_ros.weights.carried import carried_file

NAME, LANGUAGE = "moonshine-tiny.en", "en"
PACKAGE, REQUIREMENT = "moonshine_voice", "moonshine-voice==0.0.73"
FILES = {
    "encoder_model.ort": "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
    "decoder_model_merged.ort": "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
    "tokenizer.bin": "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
}
_BEGIN, _END = 1, 2
#: Tokens a second at most: more are a loop (the paper's own bound for English).
_RATE = 6.5
#: Shorter sound is filled up with silence: the encoder needs some frames.
_SHORTEST = SAMPLE_RATE // 4
#: Longer sound is heard in pieces of about this length; the network was trained with up to 30 s.
_LONGEST = 25 * SAMPLE_RATE


def packaged_moonshine() -> Path:
    """Folder of the files that a package on this machine carries.

    Raises:
        WeightsError: the package is missing, or one of its files is another than is known.
    """
    files = [carried_file(PACKAGE, REQUIREMENT, f"assets/tiny-en/{name}", sum_) for name, sum_ in FILES.items()]
    return files[0].parent


class Moonshine:
    """Moonshine tiny for English.

    Args:
        folder: with the three files.
        threads: of the CPU.

    Raises:
        WeightsError: they cannot be loaded.
    """

    model_id: ClassVar[str] = NAME
    doubtful: ClassVar[float] = -0.5

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Threads that wait for work by turning round would take the cores from the other nodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._encoder, self._decoder = (
                onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
                for name in ("encoder_model.ort", "decoder_model_merged.ort")
            )
            self._tokens = read_tokens((folder / "tokenizer.bin").read_bytes())
        except Exception as error:  # onnxruntime has its own
            raise WeightsError(f"{folder} holds no Moonshine that can be loaded ({error})") from error
        self.device = "cpu, int8"
        self._given = [output.name for output in self._decoder.get_outputs()]
        self._empty: dict[str, Any] = {
            part.name: np.zeros((1, part.shape[1], 0, part.shape[3]), np.float32)
            for part in self._decoder.get_inputs()
            if part.name.startswith("past_key_values.")
        }

    def hear(self, samples: FloatArray, language: str = LANGUAGE, beam_size: int = 1) -> Heard:
        """Recognise; of several pieces the words stand behind each other. Only the likeliest token is followed."""
        pieces = np.array_split(np.asarray(samples, np.float32), -(-len(samples) // _LONGEST) or 1)
        texts, likely = [], []
        for piece in pieces:
            text, found = self._piece(np.pad(piece, (0, max(_SHORTEST - len(piece), 0))))
            texts.append(text)
            likely += found
        text = " ".join(text for text in texts if text)
        logprob = float(np.mean(likely)) if likely else float("nan")
        return Heard(text, logprob, is_loop(text), float("nan"), LANGUAGE, 1.0)

    def _piece(self, sound: FloatArray) -> tuple[str, list[float]]:
        """Words of sound ``[n]``, and of each token the logarithm of its probability."""
        row = sound[None]
        states = self._encoder.run(None, {"input_values": row, "attention_mask": np.ones(row.shape, np.int64)})[0]
        # The decoder takes the mask of the samples and looks at the first of each of the encoder's frames.
        frame = 384
        given = {
            "encoder_hidden_states": states,
            "encoder_attention_mask": np.ones((1, states.shape[1] * frame), np.int64),
        }
        past, tokens, likely = self._empty, [_BEGIN], []
        for _ in range(max(1, round(len(sound) / SAMPLE_RATE * _RATE))):
            asked = {
                "input_ids": np.array([tokens[-1:]], np.int64),
                "use_cache_branch": np.array([past is not self._empty]),
            }
            out = dict(zip(self._given, self._decoder.run(None, given | asked | past), strict=True))
            logits = out["logits"][0, -1].astype(np.float64)
            best = int(logits.argmax())
            likely.append(float(-np.log(np.exp(logits - logits[best]).sum())))
            if best == _END:
                break
            tokens.append(best)
            # What the decoder looks up in the encoder's states does not change: it comes with the first answer only.
            kept = {name: out[name.replace("past_key_values", "present")] for name in self._empty}
            past = kept if past is self._empty else past | {n: v for n, v in kept.items() if ".decoder." in n}
        said = b"".join(self._tokens[token] for token in tokens[1:]).decode("utf-8", "ignore")
        return said.replace("\u2581", " ").strip(), likely


def read_tokens(table: bytes) -> list[bytes]:
    """The tokens in the order of their numbers; each stands behind its length, in one byte or from 128 on in two."""
    tokens, at = [], 0
    while at < len(table):
        length = table[at]
        at += 1
        if length >= 128:
            length += 128 * table[at] - 128
            at += 1
        tokens.append(table[at : at + length])
        at += length
    return tokens
