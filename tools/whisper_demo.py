"""Trains the demo recogniser, a very small Whisper: ``python tools/whisper_demo.py --out DIR``.

The network is Whisper's (Radford et al. 2022, arXiv 2212.04356), two layers deep, and knows a closed set of sentences
(``synctva_ros/demo/sentences.txt``), read by eSpeak NG. For anything else, noise or speech, it is trained to say
``<|nospeech|>`` and a blank. Features are faster-whisper's own and the result is a CTranslate2 folder, so that the
road from sound to words is the one a full-size model takes. ``--evaluate`` measures a folder instead of training.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from scipy import signal
from torch.nn import functional
from torch.nn.functional import cross_entropy

from synctva_ros.demo import sentences
from synctva_ros.events import FloatArray
from synctva_ros.training.data.speech_synthesis import (
    FOREIGN_VOICES,
    HELD_OUT_VOICES,
    PITCHES,
    SAMPLE_RATE,
    SPEEDS,
    TRAINING_VOICES,
    phoneme_times,
    speech_bounds,
    synthesise,
)
from synctva_ros.training.loop import Task, fit, forget
from synctva_ros.training.recipe import Schedule

if TYPE_CHECKING:
    import tokenizers
    from faster_whisper import WhisperModel
    from transformers import WhisperForConditionalGeneration

VOCABULARY_SIZE = 512
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
TIMESTAMP_TOKENS = 1501
MEL_BINS = 80
FULL_FRAMES = 3000
CONTEXT = 448
WIDTH = 64
LAYERS = 2
HEADS = 2

#: How many times each sentence is read, how many other sentences, noises and long recordings there are.
READINGS = 64
OTHER_SPEECH = 4000
NOISES = 1000
LONG_RECORDINGS = 120

#: Steps of each round; the learning rate and the optimiser start afresh (warm restart, arXiv 1608.03983).
ROUNDS = (3000, 4500, 2000)
BATCH_FRAMES = 8_000
#: Positions of the padding that stand for all of it while training.
PADDING_POSITIONS = 48
#: Steps in which the weight of the padding rises to its own.
PADDING_RISE = 1200
SCHEDULE = Schedule(learning_rate=2e-3, warm_up=0.08, weight_decay=0.01)
#: Above this probability of no speech a transcript is not believed; faster-whisper's default.
NO_SPEECH_THRESHOLD = 0.6

NOISE_KINDS = ("silence", "white", "pink", "brown", "hum", "tones", "clicks", "bursts")

FUNCTION_WORDS = (
    *("the", "a", "of", "to", "in", "on", "and", "but", "for", "with", "is", "was", "are"),
    *("it", "he", "she", "we", "they", "you", "my", "your", "his", "not"),
)
#: What the evaluation expects to be refused; training never sees these.
OTHER_SENTENCES = (
    "Where can I buy a ticket for the museum?",
    "Our teacher explained the exercise twice.",
    "He parked the lorry behind the supermarket.",
    "Open the window and let some fresh air in.",
    "The council will vote on the proposal in March.",
    "She plays the violin in an orchestra.",
    "Turn left after the second roundabout.",
    "It takes an hour to charge the battery.",
    "I would like a cup of tea with lemon.",
    "The robot picked up the cube and put it away.",
    "Scientists have measured the speed of light.",
    "Have you seen my glasses anywhere?",
    "Kids are talking by the door.",
    "Dogs are sitting by the door.",
    "Place blue in A four please.",
    "We are going to need a bigger boat.",
    "The prime minister answered three questions.",
    "Yesterday I cleaned the garage with my cousin.",
    "Boil the potatoes for twenty minutes.",
    "This software needs to be updated.",
    "I got the keys and I am ready to go.",
    "Good evening and thank you for the invitation.",
    "Please turn on the radio before the news.",
    "The new kitchen looks like a laboratory.",
)


# --- sound -----------------------------------------------------------------------------------------------------------


def coloured_noise(rng: np.random.Generator, count: int, exponent: float) -> FloatArray:
    """Noise ``[count]`` of RMS 1 whose power falls with frequency to the ``exponent`` (0 white, 1 pink, 2 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.arange(len(spectrum)), count * 20 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * frequency ** (-exponent / 2), count)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def make_noise(rng: np.random.Generator, kind: str, count: int) -> FloatArray:
    """Sound that is not speech, ``[count]``, of RMS about 1 (silence: 0); ``kind`` is one of ``NOISE_KINDS``."""
    time = np.arange(count) / SAMPLE_RATE
    if kind == "silence":
        return np.zeros(count, dtype=np.float32)
    if kind in ("white", "pink", "brown"):
        return coloured_noise(rng, count, {"white": 0.0, "pink": 1.0, "brown": 2.0}[kind])
    if kind == "hum":
        mains = rng.choice((50.0, 60.0))
        sound = sum(
            rng.uniform(0.1, 1) / k * np.sin(2 * np.pi * (k * mains * time + rng.uniform())) for k in range(1, 9)
        )
    elif kind == "tones":
        sound = sum(
            rng.uniform(0.2, 1) * np.sin(2 * np.pi * (f * time + rng.uniform()))
            for f in rng.uniform(100, 5000, rng.integers(1, 5))
        )
    elif kind == "clicks":
        impulses = np.where(rng.random(count) < rng.uniform(1, 12) / SAMPLE_RATE, rng.choice((-1.0, 1.0), count), 0.0)
        impulses[rng.integers(count)] = 1.0
        length = round(rng.uniform(0.001, 0.02) * SAMPLE_RATE)
        decay = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
        sound = signal.fftconvolve(impulses, decay)[:count]
    else:
        carrier = coloured_noise(rng, count, rng.uniform(0, 1.5))
        sound = carrier * np.clip(np.sin(2 * np.pi * (rng.uniform(0.5, 7) * time + rng.uniform())), 0, 1)
    return np.asarray(sound / (np.std(sound) + 1e-9), dtype=np.float32)


def augment(rng: np.random.Generator, speech: FloatArray) -> tuple[FloatArray, float, float]:
    """What a microphone may make of clean speech ``[samples]``: another throat, a room, a band, a level, noise.

    Lead and tail are what an end-pointer hands over around an utterance, 0.05 to 0.6 s.

    Returns:
        The sound, and stretch and shift: what was at ``t`` seconds in the speech is at ``stretch * t + shift``.
    """
    first, last = speech_bounds(speech)
    speech = speech[first:last]
    stretch = 1.0
    if rng.random() < 0.6:
        stretch = rng.uniform(0.88, 1.14)
        speech = soxr.resample(speech, SAMPLE_RATE, SAMPLE_RATE * stretch)
    lead, tail = (round(seconds * SAMPLE_RATE) for seconds in rng.uniform(0.05, 0.6, 2))
    sound = np.pad(speech, (lead, tail)).astype(np.float32)
    if rng.random() < 0.35:
        length = round(rng.uniform(0.05, 0.3) * SAMPLE_RATE)
        tail_sound = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
        wet = signal.fftconvolve(sound, tail_sound)[: len(sound)]
        wet *= np.std(sound) / (np.std(wet) + 1e-9) * 10 ** (rng.uniform(-20, -5) / 20)
        sound = sound + wet
    if rng.random() < 0.35:
        band = (rng.uniform(50, 300), rng.uniform(3400, 7500))
        sound = signal.sosfilt(signal.butter(2, band, "bandpass", fs=SAMPLE_RATE, output="sos"), sound)
    level = np.sqrt(np.mean(np.square(sound[lead : len(sound) - tail]))) + 1e-9
    if rng.random() < 0.85:
        kind = str(rng.choice(("white", "pink", "brown", "hum", "clicks"), p=(0.3, 0.3, 0.25, 0.1, 0.05)))
        sound = sound + make_noise(rng, kind, len(sound)) * level * 10 ** (-rng.uniform(5, 40) / 20)
    sound = sound / (np.abs(sound).max() + 1e-9) * 10 ** (rng.uniform(-30, -0.5) / 20)
    floor = rng.standard_normal(len(sound)) * 10 ** (rng.uniform(-90, -60) / 20)
    return np.asarray(sound + floor, dtype=np.float32), stretch, (lead - stretch * first) / SAMPLE_RATE


def features_of(sound: FloatArray) -> NDArray[np.float16]:
    """Whisper's log-mel features ``[80, frames]`` as faster-whisper makes them, before it pads them with zeros."""
    from faster_whisper.feature_extractor import FeatureExtractor

    return np.asarray(FeatureExtractor()(sound)[:, :-1][:, :FULL_FRAMES], dtype=np.float16)


# --- data ------------------------------------------------------------------------------------------------------------


SILENCE = "_"


@dataclass(frozen=True)
class Example:
    """A recording as the network gets it.

    Features ``[80, frames]``; its sentence, or None if it is to be refused; the phoneme at each encoder position (two
    frames), or None if it is not known.
    """

    features: NDArray[np.float16]
    sentence: str | None
    phonemes: tuple[str, ...] | None


@dataclass(frozen=True)
class Reading:
    """Clean sound ``[samples]`` and when each phoneme begins in it, in seconds, if that is to be learned."""

    samples: FloatArray
    phonemes: tuple[tuple[str, float], ...] | None = None


def normalise(text: str) -> str:
    """Lower case, letters and apostrophes only, single spaces."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


@cache
def common_words() -> tuple[str, ...]:
    """The words of ``common_words.txt``, of which other sentences are composed."""
    return tuple((Path(__file__).parent / "common_words.txt").read_text(encoding="utf-8").split())


def compose_other(rng: np.random.Generator) -> str:
    """Words that are none of the sentences: salads of all kinds, and halves of two sentences joined."""
    known = sentences()
    words = [normalise(sentence).split() for sentence in known]
    draw = rng.random()
    if draw < 0.2:
        first, second = rng.choice(len(known), 2, replace=False)
        return " ".join(words[first][: len(words[first]) // 2 + 1] + words[second][len(words[second]) // 2 :])
    if draw < 0.35:
        own = [word for sentence in words for word in sentence]
        return " ".join(rng.choice(own, rng.integers(2, 10)))
    if draw < 0.5:
        kept = list(words[rng.integers(len(known))])
        for index in rng.choice(len(kept), -(-len(kept) // 2), replace=False):
            kept[index] = str(rng.choice(common_words()))
        return " ".join(kept)
    count = int(rng.integers(1, 10))
    return " ".join(str(rng.choice(FUNCTION_WORDS if rng.random() < 0.35 else common_words())) for _ in range(count))


def _read(rng: np.random.Generator, text: str, voice: str) -> Reading:
    arguments = (text, voice, int(rng.integers(*SPEEDS)), int(rng.integers(*PITCHES)))
    return Reading(synthesise(*arguments), phoneme_times(*arguments))


def _recorded(rng: np.random.Generator, reading: Reading, sentence: str | None, longest: int) -> Example:
    """The reading distorted, of at most ``longest`` seconds."""
    sound, stretch, shift = augment(rng, reading.samples)
    features = features_of(sound[: longest * SAMPLE_RATE])
    if reading.phonemes is None:
        return Example(features, sentence, None)
    names, starts = zip(*reading.phonemes, strict=True)
    middle = (0.02 * np.arange(-(-features.shape[1] // 2)) + 0.01 - shift) / stretch
    first, last = (bound / SAMPLE_RATE for bound in speech_bounds(reading.samples))
    phonemes = tuple(
        names[index] if index >= 0 and first <= time <= last and not names[index].startswith(SILENCE) else SILENCE
        for time, index in zip(middle, np.searchsorted(starts, middle, "right") - 1, strict=True)
    )
    return Example(features, sentence, phonemes)


def _known_reading(rng: np.random.Generator, sentence: str) -> Reading:
    return _read(rng, sentence, str(rng.choice(TRAINING_VOICES)))


def _other_reading(rng: np.random.Generator) -> Reading:
    draw = rng.random()
    if draw < 0.1:
        return Reading(_known_reading(rng, str(rng.choice(sentences()))).samples[::-1].copy())
    text = compose_other(rng)
    if draw < 0.25:
        return Reading(_read(rng, text, str(rng.choice(FOREIGN_VOICES))).samples)
    return _read(rng, text, str(rng.choice(TRAINING_VOICES)))


def _known(seed: int, index: int) -> Example:
    rng = np.random.default_rng((seed, 1, index))
    sentence = sentences()[index % len(sentences())]
    return _recorded(rng, _known_reading(rng, sentence), sentence, 30)


def _other(seed: int, index: int) -> Example:
    rng = np.random.default_rng((seed, 2, index))
    return _recorded(rng, _other_reading(rng), None, 8)


def _noise(seed: int, index: int) -> Example:
    rng = np.random.default_rng((seed, 3, index))
    count = round(rng.uniform(0.2, 6.0) * SAMPLE_RATE)
    sound = make_noise(rng, NOISE_KINDS[index % len(NOISE_KINDS)], count) * 10 ** (rng.uniform(-80, -10) / 20)
    sound = sound + rng.standard_normal(count) * 10 ** (rng.uniform(-100, -60) / 20) * (rng.random() < 0.8)
    features = features_of(np.clip(sound, -1, 1).astype(np.float32))
    return Example(features, None, (SILENCE,) * -(-features.shape[1] // 2))


def _long(seed: int, index: int) -> Example:
    rng = np.random.default_rng((seed, 4, index))
    length = rng.uniform(5, 16) * SAMPLE_RATE
    parts: list[FloatArray] = []
    while sum(map(len, parts)) < length:
        known = rng.random() < 0.3
        reading = _known_reading(rng, str(rng.choice(sentences()))) if known else _other_reading(rng)
        parts += [reading.samples, np.zeros(round(rng.uniform(0, 0.6) * SAMPLE_RATE), dtype=np.float32)]
    return _recorded(rng, Reading(np.concatenate(parts)), None, 30)


def _make(job: tuple[Callable[[int, int], Example], int, int]) -> Example:
    make, seed, index = job
    return make(seed, index)


def make_examples(seed: int, workers: int) -> list[Example]:
    """Reads, distorts and analyses the training data.

    Raises:
        SynthesisError: eSpeak NG is absent or failed.
    """
    from tqdm import tqdm

    counts = ((_known, READINGS * len(sentences())), (_other, OTHER_SPEECH), (_noise, NOISES), (_long, LONG_RECORDINGS))
    jobs = [(make, seed, index) for make, count in counts for index in range(count)]
    # A process for each chunk: libespeak-ng's timing depends on what it has spoken before.
    with multiprocessing.get_context("fork").Pool(workers, maxtasksperchild=1) as pool:
        return list(tqdm(pool.imap(_make, jobs, chunksize=32), "making sound", len(jobs), unit="clip"))


# --- network ---------------------------------------------------------------------------------------------------------


def build_tokenizer(texts: Sequence[str]) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of the texts with the special tokens of Whisper's English-only models.

    Every letter after a space is made one token: faster-whisper suppresses the first token of " -" and of some
    symbols, which would otherwise be the lone space.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    starts = [f" {chr(code)}" for code in range(33, 127)] + [" ♪"]
    tokenizer.train_from_iterator([f" {text}" for text in texts] + starts * 100, trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def token_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
    """The id of a token.

    Raises:
        ValueError: The tokenizer does not have it.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found


def check_tokenizer(tokenizer: tokenizers.Tokenizer) -> None:
    """Makes sure that every sentence survives the tokenizer and faster-whisper's suppressed tokens.

    Raises:
        ValueError: A sentence does not.
    """
    from faster_whisper.tokenizer import Tokenizer

    whisper = Tokenizer(tokenizer, multilingual=False)
    suppressed = set(whisper.non_speech_tokens)
    for sentence in sentences():
        ids = whisper.encode(f" {sentence}")
        if whisper.decode(ids) != f" {sentence}":
            raise ValueError(f"the tokenizer does not give back {sentence!r}")
        if suppressed & set(ids):
            raise ValueError(f"faster-whisper would suppress tokens of {sentence!r}; enlarge VOCABULARY_SIZE")


def build_model(
    tokenizer: tokenizers.Tokenizer, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS
) -> WhisperForConditionalGeneration:
    """A Whisper of this size for the tokenizer, with fresh weights."""
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    end, start = token_id(tokenizer, "<|endoftext|>"), token_id(tokenizer, "<|startoftranscript|>")
    config = WhisperConfig(
        vocab_size=tokenizer.get_vocab_size() + TIMESTAMP_TOKENS,
        num_mel_bins=MEL_BINS,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=FULL_FRAMES // 2,
        max_target_positions=CONTEXT,
        dropout=0.0,
        init_std=0.1,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    # As in OpenAI's models, no text begins with its end. Unlike there, it may begin with a lone space: that is the text
    # of what is refused, and faster-whisper drops it.
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        suppress_tokens=[],
        begin_suppress_tokens=[end],
        lang_to_id={"<|en|>": token_id(tokenizer, "<|en|>")},
    )
    return model


def encode(
    model: WhisperForConditionalGeneration, features: torch.Tensor, rng: np.random.Generator, share: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder over a window of 30 s of which most is padding, at a fraction of its cost.

    faster-whisper pads features with zeros to 3000 frames. There the states before the first layer differ only by
    their position, so a few positions, drawn evenly, stand for all of them: each has the weight in attention of those
    it stands for. If all positions are drawn, this equals ``model.model.encoder`` on the padded features.

    Args:
        model: The Whisper.
        features: ``[batch, 80, frames]``, an even number of frames.
        rng: Draws the positions.
        share: 1 gives the drawn positions their full weight, 0 the weight of one position each.

    Returns:
        Hidden states ``[batch, positions, width]``, those of the features first, and the logarithm of the weight of
        each position ``[1, 1, 1, positions]``, to be added to attention scores.
    """
    encoder = model.model.encoder
    count = features.shape[2] // 2
    hidden = functional.pad(features, (0, 8))
    hidden = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(hidden)))).transpose(1, 2)
    empty = hidden[:, count + 1 : count + 2]
    rest = FULL_FRAMES // 2 - count
    drawn = min(PADDING_POSITIONS, rest)
    edges = count + rest * np.arange(drawn) / max(drawn, 1)
    padding = torch.from_numpy((edges + rng.random() * rest / max(drawn, 1)).astype(np.int64))
    weight = torch.zeros(count + drawn)
    weight[count:] = share * np.log(rest / max(drawn, 1))
    position = encoder.embed_positions.weight
    hidden = torch.cat((hidden[:, :count] + position[:count], empty + position[padding]), dim=1)
    hidden = functional.dropout(hidden, encoder.dropout, encoder.training)
    weight = weight[None, None, None]
    for layer in encoder.layers:
        hidden = layer(hidden, weight)
    return encoder.layer_norm(hidden), weight


def decode(
    model: WhisperForConditionalGeneration, tokens: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """The decoder over the encoder's weighted states, which transformers' own call does not take.

    Args:
        model: The Whisper.
        tokens: ``[batch, tokens]``.
        hidden: ``[batch, positions, width]`` of :func:`encode`.
        weight: ``[1, 1, 1, positions]`` of :func:`encode`.

    Returns:
        Logits ``[batch, tokens, vocabulary]``.
    """
    decoder = model.model.decoder
    states = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[: tokens.shape[1]]
    states = functional.dropout(states, decoder.dropout, decoder.training)
    for layer in decoder.layers:
        states = layer(states, None, hidden, encoder_attention_mask=weight, use_cache=False)
    logits: torch.Tensor = model.proj_out(decoder.layer_norm(states))
    return logits


# --- training --------------------------------------------------------------------------------------------------------


def _distort(rng: np.random.Generator, features: FloatArray) -> FloatArray:
    """Shifts ``[80, frames]`` by up to two mel bins, another throat, and blanks a band and a moment."""
    shift = int(rng.integers(-2, 3))
    features = np.take(features, np.clip(np.arange(MEL_BINS) + shift, 0, MEL_BINS - 1), axis=0)
    low = features.min()
    band, moment = int(rng.integers(0, 12)), int(rng.integers(0, 10))
    start = int(rng.integers(0, MEL_BINS - band))
    features[start : start + band] = low
    start = int(rng.integers(0, max(features.shape[1] - moment, 1)))
    features[:, start : start + moment] = low
    return features


def _batches(rng: np.random.Generator, lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Endless batches of indices of roughly like length, about ``BATCH_FRAMES`` frames each."""
    while True:
        order = np.argsort(lengths * rng.uniform(0.85, 1.15, len(lengths)))
        batch_of = np.cumsum(lengths[order]) // BATCH_FRAMES
        starts = np.flatnonzero(np.diff(batch_of)) + 1
        batches = np.split(order, starts)
        for index in rng.permutation(len(batches)):
            yield batches[index]


def _targets(tokenizer: tokenizers.Tokenizer, batch: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder inputs and targets ``[batch, tokens]``; -100 where there is no target."""
    end, start, none, plain = (
        token_id(tokenizer, token)
        for token in ("<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>")
    )
    texts = [tokenizer.encode(f" {example.sentence or ''}").ids for example in batch]
    longest = max(map(len, texts))
    inputs = torch.full((len(batch), longest + 2), end)
    targets = torch.full((len(batch), longest + 2), -100)
    for row, (example, text) in enumerate(zip(batch, texts, strict=True)):
        inputs[row, : len(text) + 2] = torch.tensor([start, plain, *text])
        # After the start comes the verdict: <|nospeech|>, or the token with which a transcript without times begins.
        targets[row, : len(text) + 2] = torch.tensor([plain if example.sentence else none, *text, end])
    return inputs, targets


def _phoneme_loss(
    head: torch.nn.Linear, hidden: torch.Tensor, batch: Sequence[Example], inventory: dict[str, int]
) -> torch.Tensor:
    """Cross-entropy of the phoneme at each position, where it is known: it trains the encoder on what is said when."""
    longest = max(-(-example.features.shape[1] // 2) for example in batch)
    targets = torch.full((len(batch), longest), -100)
    for row, example in enumerate(batch):
        if example.phonemes is not None:
            targets[row, : len(example.phonemes)] = torch.tensor([inventory[name] for name in example.phonemes])
    logits = head(hidden[:, :longest]).flatten(0, 1)
    known = (targets >= 0).sum().clamp(min=1)
    return cross_entropy(logits, targets.flatten(), ignore_index=-100, reduction="sum") / known


class RecogniserTask(Task):
    """A round of the recogniser's training; an epoch is a hundred steps.

    Args:
        model: what is trained, besides the phonemes.
        tokenizer: writes the targets.
        examples: of speech, other speech and noise.
        number: of the round, from 0.
        rng: see :class:`Task`.
    """

    steps = 100

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: tokenizers.Tokenizer,
        examples: Sequence[Example],
        number: int,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.tokenizer, self.examples, self.number, self.rng = model, tokenizer, examples, number, rng
        names = sorted({name for example in examples for name in example.phonemes or ()})
        self.inventory = {name: index for index, name in enumerate(names)}
        self.phonemes = torch.nn.Linear(WIDTH, len(names))
        self.network = torch.nn.ModuleDict({"model": model, "phonemes": self.phonemes})
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, SCHEDULE.learning_rate, (0.9, 0.98), weight_decay=0.01)
        self.lengths = np.array([example.features.shape[1] for example in examples])

    def batches(self) -> Iterator[list[Example]]:
        """Examples of roughly like length."""
        for rows, _ in zip(_batches(self.rng, self.lengths), range(self.steps), strict=False):
            yield [self.examples[row] for row in rows]

    def loss(self, batch: list[Example]) -> torch.Tensor:
        """Cross-entropy of the verdict, of the words, and of the phonemes that the encoder hears."""
        frames = max(example.features.shape[1] for example in batch)
        frames = min(frames + frames % 2, FULL_FRAMES)
        padded = np.zeros((len(batch), MEL_BINS, frames), dtype=np.float32)
        for row, example in enumerate(batch):
            padded[row, :, : example.features.shape[1]] = _distort(self.rng, example.features.astype(np.float32))
        # With all of the padding from the beginning, training does not leave its first plateau: nearly all that
        # fresh attention sees is padding.
        share = 1.0 if self.number else min(self._done / PADDING_RISE, 1.0)
        hidden, weight = encode(self.model, torch.from_numpy(padded), self.rng, share)
        inputs, targets = _targets(self.tokenizer, batch)
        logits = decode(self.model, inputs, hidden, weight)
        verdict = cross_entropy(logits[:, 0], targets[:, 0])
        words = cross_entropy(logits[:, 1:].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        return verdict + words + _phoneme_loss(self.phonemes, hidden, batch, self.inventory)

    @property
    def _done(self) -> int:
        """Steps of this round, those before an interruption among them."""
        return max((int(state["step"]) for state in self.optimizer.state.values()), default=0)


def train(
    model: WhisperForConditionalGeneration,
    tokenizer: tokenizers.Tokenizer,
    examples: Sequence[Example],
    seed: int,
    out: Path,
) -> None:
    """Trains in place on the examples, in ``ROUNDS``; ``out`` gets a folder with the log of each."""
    parts = [out / f"round-{number}" for number in range(1, len(ROUNDS) + 1)]
    for number, part in enumerate(parts):
        torch.manual_seed(seed + number)
        task = RecogniserTask(model, tokenizer, examples, number, np.random.default_rng((seed, 5 + number)))
        schedule = replace(SCHEDULE, epochs=ROUNDS[number] // task.steps)
        fit(task, schedule, part, f"round {number + 1} of {len(ROUNDS)}", made_of={"seed": seed})
    for part in parts:
        forget(part)


def save(model: WhisperForConditionalGeneration, tokenizer: tokenizers.Tokenizer, out: Path) -> None:
    """Writes the CTranslate2 folder that ``faster_whisper.WhisperModel`` reads."""
    from ctranslate2.converters import TransformersConverter
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
        TransformersConverter(folder).convert(str(out), force=True)
    tokenizer.save(str(out / "tokenizer.json"))
    preprocessor = {"feature_size": MEL_BINS, "sampling_rate": SAMPLE_RATE, "hop_length": 160, "chunk_length": 30}
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor | {"n_fft": 400}, indent=2) + "\n")


# --- evaluation ------------------------------------------------------------------------------------------------------


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Word errors (Levenshtein distance over normalised words) and the number of words in the reference."""
    expected, heard = normalise(reference).split(), normalise(hypothesis).split()
    row = list(range(len(heard) + 1))
    for i, word in enumerate(expected, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(expected)


def transcribe(model: WhisperModel, sound: FloatArray) -> str:
    """The words that faster-whisper hears in sound ``[samples]`` at 16 kHz; empty if it is refused."""
    segments, _ = model.transcribe(
        sound,
        language="en",
        beam_size=1,
        temperature=0.0,
        without_timestamps=True,
        condition_on_previous_text=False,
        vad_filter=False,
    )
    return "".join(segment.text for segment in segments if segment.no_speech_prob <= NO_SPEECH_THRESHOLD).strip()


def no_speech_probability(model: WhisperModel, sound: FloatArray) -> float:
    """The probability of ``<|nospeech|>`` for the first 30 s, which faster-whisper gives only beside words."""
    from faster_whisper.audio import pad_or_trim

    features = pad_or_trim(model.feature_extractor(sound)[:, :-1])
    prompt = [token_id(model.hf_tokenizer, token) for token in ("<|startoftranscript|>", "<|notimestamps|>")]
    result = model.model.generate(model.encode(features), [prompt], return_no_speech_prob=True, beam_size=1)
    return float(result[0].no_speech_prob)


def as_handed_over(rng: np.random.Generator, speech: FloatArray, snr: float) -> FloatArray:
    """Clean speech with 0.3 s before and 0.2 s after it, as an end-pointer cuts it, in white noise at ``snr`` dB."""
    first, last = speech_bounds(speech)
    speech = speech[first:last]
    level = np.sqrt(np.mean(speech**2))
    sound = np.pad(speech, (round(0.3 * SAMPLE_RATE), round(0.2 * SAMPLE_RATE)))
    return np.asarray(sound + rng.normal(0, level * 10 ** (-snr / 20), len(sound)), dtype=np.float32)


def evaluate(folder: Path, seed: int) -> dict[str, float]:
    """Measures a folder by way of faster-whisper.

    Returns:
        Word error rates of all sentences in all held-out voices, almost clean (40 dB) and in noise (15 dB); the
        fraction of other sentences in held-out voices and of noises that is refused, and the median probability of no
        speech of each kind.

    Raises:
        SynthesisError: eSpeak NG is absent or failed.
    """
    from faster_whisper import WhisperModel
    from tqdm import tqdm

    model = WhisperModel(str(folder), device="cpu", local_files_only=True)
    rng = np.random.default_rng((seed, 6))
    figures: dict[str, float] = {}
    spoken = [(sentence, synthesise(sentence, voice)) for voice in HELD_OUT_VOICES for sentence in sentences()]
    for name, snr in (("clean", 40.0), ("noisy", 15.0)):
        sounds = [(sentence, as_handed_over(rng, sound, snr)) for sentence, sound in tqdm(spoken, f"sentences, {name}")]
        counts = [word_errors(sentence, transcribe(model, sound)) for sentence, sound in tqdm(sounds, name)]
        errors, words = np.sum(counts, axis=0)
        figures[f"word error rate, {name}"] = float(errors / words)
    known = [no_speech_probability(model, as_handed_over(rng, sound, 40.0)) for _, sound in spoken[::8]]
    figures["no-speech probability, sentences"] = float(np.median(known))
    other = [synthesise(text, voice) for text in OTHER_SENTENCES for voice in HELD_OUT_VOICES[::2]]
    noises = [
        make_noise(rng, kind, round(rng.uniform(0.5, 5) * SAMPLE_RATE)) * np.float32(10 ** (rng.uniform(-70, -15) / 20))
        for kind in NOISE_KINDS * 10
    ]
    for name, sounds_to_refuse in (
        ("other speech", [as_handed_over(rng, sound, 40.0) for sound in other]),
        ("noise", noises),
    ):
        progress = tqdm(sounds_to_refuse, name)
        refused = [(transcribe(model, sound) == "", no_speech_probability(model, sound)) for sound in progress]
        figures[f"refused, {name}"], _ = np.mean(refused, axis=0).tolist()
        figures[f"no-speech probability, {name}"] = float(np.median([p for _, p in refused]))
    return figures


def main() -> None:
    """Trains, saves and measures, or only measures."""
    parser = argparse.ArgumentParser(description="Train the demo recogniser, a very small Whisper of 72 sentences.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="of sound, weights and order (default: 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make sound")
    parser.add_argument("--threads", type=int, default=1, help="threads of the training (default: 1)")
    parser.add_argument("--evaluate", action="store_true", help="measure the folder, do not train")
    arguments = parser.parse_args()
    if not arguments.evaluate:
        torch.manual_seed(arguments.seed)
        torch.set_num_threads(arguments.threads)
        tokenizer = build_tokenizer(sentences())
        check_tokenizer(tokenizer)
        model = build_model(tokenizer)
        examples = make_examples(arguments.seed, arguments.workers)
        train(model, tokenizer, examples, arguments.seed, arguments.out)
        save(model, tokenizer, arguments.out)
    print(json.dumps(evaluate(arguments.out, arguments.seed), indent=2))


if __name__ == "__main__":
    main()
