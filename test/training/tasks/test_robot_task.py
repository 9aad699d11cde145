"""Training of the shipped network: what its batches are put together of, and from end to end on made-up vectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.network.synctva import DialogueBatch
from synctva_ros.network.weights import load
from synctva_ros.training.data.dialogues import CORPORA, Corpus, Dialogue
from synctva_ros.training.loop import LOG, read_log
from synctva_ros.training.recipe import RobotRecipe
from synctva_ros.training.tasks import face as face_encoder
from synctva_ros.training.tasks import robot as shipped
from synctva_ros.training.tasks.robot import (
    DISAGREES,
    MODEL_ID,
    NEUTRAL,
    NEUTRAL_FACE,
    NEUTRAL_VOICE,
    NO_LABEL,
    VALIDATION_SPEAKERS,
    DialogueRows,
    Material,
    Pool,
    dialogue_batch,
    disagreeing,
    emotional,
    joined,
    read_dialogues,
    read_faces,
    read_others,
    read_voices,
    scenes_of,
    shown,
    singles,
    steps,
    unread_words,
)
from synctva_ros.training.tasks.voice import VoiceClip

# Row numbers as text vectors: 0 to 9 as written, 10 to 19 as recognised.
TEXT = np.repeat(np.arange(20, dtype=np.float32)[:, None], 2, axis=1)
VOICES = Pool(np.repeat(np.arange(7, dtype=np.float32), 3)[:, None], np.repeat(np.arange(7), 3))
FACES = Pool(-VOICES.vectors, VOICES.labels)
MATERIAL = Material([], TEXT, VOICES, FACES, np.full((5, 1), 99, np.float32))
CLASSES = np.arange(len(EMOTIONS))


def rows_of(n: int) -> DialogueRows:
    return DialogueRows(np.arange(n), np.arange(n) + 10, np.full(n, 3), np.arange(n) % 2, np.arange(n) % 7)


def dialogue_of(name: str, texts: list[str], labels: list[int]) -> Dialogue:
    speakers = tuple("AB"[i % 2] for i in range(len(texts)))
    return Dialogue(name, speakers, tuple(texts), np.array(labels), None, None, None)


def corpus_of(*dialogues: Dialogue, name: str = "meld") -> Corpus:
    return Corpus(name, "train", CORPORA[name], dialogues, {}, {})


def check(batch: DialogueBatch, labels: torch.Tensor) -> None:
    """What the network asks of any batch."""
    n = len(labels)
    assert all(len(getattr(batch, name)) == n for name in ("text", "audio", "vision", "start", "end", "speaker"))
    assert batch.mask.shape == (n, 3)
    assert batch.mask.any(dim=1).all()
    assert {vectors.dtype for vectors in (batch.text, batch.audio, batch.vision)} == {torch.float32}
    assert all(torch.isfinite(vectors).all() for vectors in (batch.text, batch.audio, batch.vision))
    assert (batch.dialogue.diff() >= 0).all()
    assert (batch.end > batch.start).all()
    same = batch.dialogue.diff() == 0
    assert (batch.start.diff()[same] > 0.0).all()
    assert ((labels == NO_LABEL) | ((labels >= 0) & (labels < len(EMOTIONS)))).all()


class TestPool:
    @given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 99))
    def test_one_vector_of_each_wanted_class(self, labels: list[int], seed: int) -> None:
        drawn = VOICES.draw(np.array(labels), np.random.default_rng(seed))
        assert drawn.dtype == np.float32
        assert drawn[:, 0].tolist() == labels

    def test_all_of_a_class_are_drawn(self) -> None:
        pool = Pool(np.arange(21, dtype=np.float32)[:, None], VOICES.labels)
        drawn = pool.draw(np.full(100, 2), np.random.default_rng(0))
        assert set(drawn[:, 0]) == {6, 7, 8}


class TestDialogueBatch:
    @pytest.mark.parametrize("only", ["T", "TA", "TV", "TAV", "A"])
    def test_modalities_asked_for(self, only: str) -> None:
        batch, labels = dialogue_batch([rows_of(9), rows_of(4)], MATERIAL, np.random.default_rng(0), only)
        check(batch, labels)
        assert batch.mask.tolist() == [[letter in only for letter in "TAV"]] * 13
        assert labels.tolist() == [*(CLASSES.tolist()), 0, 1, 0, 1, 2, 3]
        if "A" in only:
            assert torch.equal(batch.audio[:, 0], labels.float())
        if "V" in only:
            assert torch.equal(batch.vision[:, 0], -labels.float())
        assert batch.dialogue.tolist() == [0] * 9 + [1] * 4
        assert batch.speaker.tolist() == [i % 2 for i in range(9)] + [i % 2 for i in range(4)]
        assert (batch.start[1:9] > batch.end[:8]).all()
        torch.testing.assert_close(batch.end - batch.start, torch.full((13,), 1.1))

    def test_words_as_recognised_or_as_written(self) -> None:
        for plain, first in ((True, 10), (False, 0)):
            batch, _ = dialogue_batch([rows_of(5)], MATERIAL, np.random.default_rng(0), "T", plain=plain)
            assert batch.text[:, 0].tolist() == list(range(first, first + 5))

    def test_training_leaves_things_out_at_random(self) -> None:
        rng = np.random.default_rng(0)

        def sound() -> FloatArray:
            return rng.standard_normal(16000).astype(np.float32)

        made = [dialogue_batch([rows_of(9)] * 4, MATERIAL, rng) for _ in range(30)]
        for batch, labels in made:
            check(batch, labels)
        masks = torch.cat([batch.mask for batch, _ in made])
        assert len(set(map(tuple, masks.tolist()))) == 7
        speakers = [set(batch.speaker[:9].tolist()) for batch, _ in made]
        assert {-1} in speakers
        assert {0, 1} in speakers
        assert {int(batch.dialogue[-1]) + 1 > 4 for batch, _ in made} == {True, False}
        words = torch.cat([batch.text[:, 0] for batch, _ in made]) >= 10
        assert words.float().mean().item() == pytest.approx(shipped.RECOGNISED, abs=0.06)

    def test_voices_beside_words_are_often_of_no_use(self) -> None:
        """Of another emotion, or no voice at all; alone they are what their label says."""
        rng = np.random.default_rng(0)

        def sound() -> FloatArray:
            return rng.standard_normal(16000).astype(np.float32)

        made = [dialogue_batch([rows_of(9)] * 10, MATERIAL, rng) for _ in range(60)]
        mask = torch.cat([batch.mask for batch, _ in made])
        audio = torch.cat([batch.audio[:, 0] for batch, _ in made])
        vision = torch.cat([batch.vision[:, 0] for batch, _ in made])
        labels = torch.cat([labels for _, labels in made]).float()
        beside, alone = mask[:, 0] & mask[:, 1], ~mask[:, 0] & mask[:, 1]
        assert (audio[beside] == 99).float().mean().item() == pytest.approx(shipped.NO_VOICE, abs=0.05)
        heard = beside & (audio != 99)
        assert 0.5 < (audio[heard] == labels[heard]).float().mean() < 0.75
        assert torch.equal(audio[alone], labels[alone])
        seen = ~mask[:, 0] & mask[:, 2]
        assert torch.equal(vision[seen], -labels[seen])
        assert not audio[~mask[:, 1]].any()
        assert not vision[~mask[:, 2]].any()

    def test_an_unknown_emotion_has_neither_voice_nor_face(self) -> None:
        rows = replace(rows_of(4), labels=np.array([0, NO_LABEL, 3, 4]))
        rng = np.random.default_rng(0)
        for only in [""] * 40 + ["TAV"]:
            batch, labels = dialogue_batch([rows], MATERIAL, rng, only)
            check(batch, labels)
            assert labels.tolist() == [0, NO_LABEL, 3, 4]
            assert batch.mask.tolist() == [[True, False, False]] * 4

    def test_the_same_from_the_same_seed(self) -> None:
        first, second = (dialogue_batch([rows_of(9)] * 3, MATERIAL, np.random.default_rng(5))[0] for _ in range(2))
        assert torch.equal(first.audio, second.audio)
        assert torch.equal(first.mask, second.mask)
        assert torch.equal(first.start, second.start)


class TestDisagreeing:
    def test_only_beside_words(self) -> None:
        labels = np.random.default_rng(0).integers(0, 7, 20000)
        words = np.arange(20000) % 2 == 0
        shown = disagreeing(labels, words, np.random.default_rng(1))
        assert np.array_equal(shown[~words], labels[~words])
        # Half of what disagrees is neutral, the rest any class, also the right one.
        agrees = (shown[words] == labels[words]).mean()
        assert agrees == pytest.approx(1 - DISAGREES + DISAGREES / 7, abs=0.02)
        changed = shown[words & (shown != labels)]
        assert Counter(changed.tolist()).most_common(1)[0][0] == NEUTRAL
        assert set(changed) == set(range(7))


class TestShown:
    def test_at_most_one_of_voice_and_face_is_neutral(self) -> None:
        labels = np.random.default_rng(0).integers(0, 7, 20000)
        voice, face = shown(labels, np.random.default_rng(1))
        felt = labels != NEUTRAL
        assert (voice[felt] != labels[felt]).mean() == pytest.approx(NEUTRAL_VOICE, abs=0.02)
        assert (face[felt] != labels[felt]).mean() == pytest.approx(NEUTRAL_FACE, abs=0.02)
        assert set(voice[voice != labels]) == set(face[face != labels]) == {NEUTRAL}
        assert ((voice == labels) | (face == labels)).all()


class TestSingles:
    @pytest.mark.parametrize(
        ("given", "mask"),
        [
            ({"audio": VOICES.vectors}, [False, True, False]),
            ({"text": np.ones((21, 2), np.float32), "vision": FACES.vectors}, [True, False, True]),
            ({"text": np.ones((21, 2), np.float32), "audio": VOICES.vectors, "vision": FACES.vectors}, [True] * 3),
        ],
    )
    def test_dialogues_of_their_own(self, given: dict[str, FloatArray], mask: list[bool]) -> None:
        batch, labels = singles(MATERIAL.widths, VOICES.labels, **given)
        check(batch, labels)
        assert batch.mask.tolist() == [mask] * 21
        assert batch.dialogue.tolist() == list(range(21))
        assert set(batch.speaker.tolist()) == {-1}
        assert np.array_equal(labels.numpy(), VOICES.labels)
        for name, width in zip(("text", "audio", "vision"), MATERIAL.widths, strict=True):
            vectors = getattr(batch, name)
            assert vectors.shape == (21, width)
            assert np.array_equal(vectors.numpy(), given.get(name, np.zeros((21, width), np.float32)))


class TestJoined:
    def test_dialogues_stay_apart(self) -> None:
        rng = np.random.default_rng(0)
        wanted = np.array([4, 2])
        batch, labels = joined(
            [
                dialogue_batch([rows_of(3), rows_of(2)], MATERIAL, rng, "T"),
                singles(MATERIAL.widths, wanted, audio=VOICES.draw(wanted, rng)),
                dialogue_batch([rows_of(1)], MATERIAL, rng, "TAV"),
            ]
        )
        check(batch, labels)
        assert batch.dialogue.tolist() == [0, 0, 0, 1, 1, 2, 3, 4]
        assert batch.mask.tolist() == [[True, False, False]] * 5 + [[False, True, False]] * 2 + [[True] * 3]
        assert labels.tolist() == [0, 1, 2, 0, 1, 4, 2, 0]
        assert torch.equal(batch.audio[5:, 0], labels[5:].float())


class TestCorpora:
    def test_words_go_to_the_reader_that_did_not_read_them(self) -> None:
        lines = [f"this is the line number {number} of them" for number in range(6)]
        meld = corpus_of(*[dialogue_of(f"m{number}", [lines[number], "Okay."], [0, 0]) for number in range(6)])
        scenes = [dialogue_of(f"e{number}", [lines[number].upper() + "!", "Well."], [0, 0]) for number in (3, 0)]
        emory = corpus_of(*scenes, name="emorynlp")
        daily = corpus_of(*[dialogue_of(f"d{number}", ["Hello."], [0]) for number in range(11)], name="dailydialog")
        readers: list[Any] = ["first", "second"]
        parts = unread_words(meld, emory, daily, readers, "average")  # type: ignore[arg-type]
        found = [(number, [d.id for d in part.dialogues], reader) for number, part, reader in parts]
        assert found == [
            (0, ["m0", "m2", "m4"], "first"),
            (0, ["m1", "m3", "m5"], "second"),
            (1, ["e0"], "first"),
            (1, ["e3"], "second"),
            (2, ["d0", "d5", "d10"], "average"),
        ]

    def test_emotional_dialogues(self) -> None:
        joy, anger = EMOTIONS.index("joy"), EMOTIONS.index("anger")
        corpus = corpus_of(
            dialogue_of("dull", ["a", "b"], [NEUTRAL, NEUTRAL]),
            dialogue_of("glad", ["a", "b"], [NEUTRAL, joy]),
            dialogue_of("cross", ["a", "b"], [NEUTRAL, anger]),
        )
        assert [dialogue.id for dialogue in emotional(corpus).dialogues] == ["cross"]

    def test_only_scenes_of_the_training_split(self) -> None:
        heard = ["Where have you been all night?", "I was at the coffee house.", "You could have told me that!"]
        secret = "Nobody must ever hear about this."
        training = corpus_of(dialogue_of("t", heard, [0, 0, 0]))
        held_out = corpus_of(dialogue_of("h", [secret], [0]))
        other = [f"This is line number {number} of something else." for number in "abcdef"]
        scenes = {
            # As other people wrote them down; short lines are said everywhere and say nothing.
            "same": [text.lower().rstrip("?.!") for text in heard] + ["Yeah.", other[0]],
            "mixed": [heard[0], heard[1], secret],
            "one line": [heard[0], *other[:2]],
            "little": [heard[0], heard[1], *other],
            "other": other,
            "short": ["Hey!", "Yeah."],
        }
        corpus = corpus_of(
            *(dialogue_of(name, texts, [0] * len(texts)) for name, texts in scenes.items()), name="emorynlp"
        )
        kept = scenes_of(corpus, training, held_out)
        assert [dialogue.id for dialogue in kept.dialogues] == ["same"]
        assert kept.labels == corpus.labels

    def test_dialogues_and_their_vectors(self, words: Any, tmp_path: Path) -> None:
        names = CORPORA["emorynlp"]
        dialogue = dialogue_of(
            "d",
            ["Well, HELLO there!", "hello", "hello", "I am so scared."],
            [names.index(name) for name in ("joyful", "powerful", "mad", "scared")],
        )
        (found,), vectors = read_dialogues(corpus_of(dialogue, name="emorynlp"), words, tmp_path)
        assert [EMOTIONS[label] if label >= 0 else label for label in found.labels] == [
            *("joy", NO_LABEL, "anger", "fear")
        ]
        assert found.words.tolist() == [3, 1, 1, 4]
        assert found.speakers.tolist() == [0, 1, 0, 1]
        assert np.array_equal(vectors[found.written], words.encode(dialogue.texts))
        plain = ["well hello there", "hello", "hello", "i am so scared"]
        assert np.array_equal(vectors[found.plain], words.encode(plain))
        assert len(vectors) == 5  # each sentence once
        before = len(words.seen)
        read_dialogues(corpus_of(dialogue, name="emorynlp"), words, tmp_path)
        assert len(words.seen) == before + 1  # a probe of the encoder; the rest comes from the cache


class Listener:
    """Stands in for the audio encoder: a vector says which member heard."""

    name = "listener-1"
    training = {"unheard_speakers": [["ravdess/2", "ravdess/17"], ["ravdess/3", "ravdess/18"]]}  # noqa: RUF012

    def encode_members(self, sound: FloatArray) -> FloatArray:
        return np.array([[member, len(sound)] for member in range(2)], np.float32)

    def encode(self, sound: FloatArray) -> FloatArray:
        return np.asarray(self.encode_members(sound).mean(axis=0))


class TestReadVoices:
    @pytest.fixture
    def clips(self, monkeypatch: pytest.MonkeyPatch) -> list[VoiceClip]:
        rng = np.random.default_rng(0)

        def sound() -> FloatArray:
            return rng.standard_normal(16000).astype(np.float32)

        made = [
            VoiceClip(f"{name}.wav", sound(), 0.2, 0.8, np.eye(7)[number % 7], np.ones(7, bool), name, "ravdess")
            for number, name in enumerate(("2", "3", "17", "18", "3"))
        ]
        monkeypatch.setattr(shipped, "read_clips", lambda data, corpora: made)
        return made

    @pytest.mark.parametrize("validation", [False, True])
    def test_members_that_never_heard_them_do(self, clips: list[VoiceClip], tmp_path: Path, validation: bool) -> None:
        pool = read_voices(tmp_path, Listener(), tmp_path / "cache", validation)  # type: ignore[arg-type]
        mine = [clip for clip in clips if (clip.person in VALIDATION_SPEAKERS) == validation]
        copies = shipped.COPIES + 1
        assert (
            pool.vectors[:, 0].tolist() == [{"2": 0, "3": 1, "17": 0, "18": 1}[clip.speaker] for clip in mine] * copies
        )
        assert pool.labels.tolist() == [clip.label for clip in mine] * copies
        lengths = pool.vectors[:, 1]
        assert set(lengths[: len(mine)]) == {0.6 * 16000}
        assert len(set(lengths[len(mine) :])) > 1  # distorted
        assert np.array_equal(pool.clean.vectors, pool.vectors[: len(mine)])
        assert pool.clean.labels.tolist() == [clip.label for clip in mine]

    @pytest.mark.parametrize("validation", [False, True])
    def test_a_speaker_whom_all_have_heard_is_refused(
        self, clips: list[VoiceClip], tmp_path: Path, validation: bool
    ) -> None:
        clips.append(replace(clips[0], speaker="20" if validation else "5"))
        encoder = Listener()
        encoder.training = {"unheard_speakers": [["ravdess/2", "ravdess/17"], ["ravdess/3", "ravdess/18"]]}
        with pytest.raises(ValueError, match=r"all members of listener-1 have heard the speaker ravdess/(5|20): train"):
            read_voices(tmp_path, encoder, tmp_path / "cache", validation)  # type: ignore[arg-type]
        assert not (tmp_path / "cache").exists()

    def test_sounds_that_are_no_voice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shipped, "OTHER_SOUNDS", 4)
        monkeypatch.setattr(shipped, "NoVoice", lambda rng: lambda: np.ones(int(rng.integers(100, 999)), np.float32))
        vectors = read_others(Listener(), tmp_path)  # type: ignore[arg-type]
        assert vectors.shape == (4, 2)
        assert len(set(vectors[:, 1])) > 1


class TestReadFaces:
    @pytest.mark.parametrize("validation", [False, True])
    def test_every_second_image(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: bool) -> None:
        images = torch.arange(7, dtype=torch.uint8).mul(30).view(7, 1, 1, 1).expand(7, 1, 48, 48)
        monkeypatch.setattr(face_encoder, "read_faces", lambda data, corpus, split: split)
        monkeypatch.setattr(face_encoder, "as_tensors", lambda split: (images, torch.eye(7)))
        encoder: Any = SimpleNamespace(
            name="looker-1",
            encode=lambda crops: np.array([[crop.mean(), len(crop)] for crop in crops], np.float32),
        )
        pool = read_faces(tmp_path, encoder, tmp_path / "cache", validation)
        mine = [1, 3, 5] if validation else [0, 2, 4, 6]
        copies = shipped.COPIES + 1
        assert pool.labels.tolist() == mine * copies
        assert pool.vectors[: len(mine), 0].tolist() == [30 * number for number in mine]
        assert set(pool.vectors[len(mine) :, 1]) <= {face_encoder.PART}


def learnable(seed: int, dialogues: int) -> Material:
    """Vectors that give the class away, all classes in each dialogue."""
    rng = np.random.default_rng(seed)

    def pool(count: int, width: int) -> Pool:
        labels = np.tile(CLASSES, count)
        vectors = 3.0 * np.eye(7, width)[labels] + 0.3 * rng.standard_normal((len(labels), width))
        return Pool(vectors.astype(np.float32), labels)

    words = pool(dialogues, 9)
    made = [
        DialogueRows(rows := np.arange(7) + 7 * number, rows, np.full(7, 4), np.arange(7) % 2, words.labels[rows])
        for number in range(dialogues)
    ]
    others = rng.standard_normal((10, 7)).astype(np.float32)
    copies = shipped.COPIES + 1
    return Material(made, words.vectors, pool(2 * copies, 7), pool(2 * copies, 8), others)


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few utterances a step."""
    few = {"VOICES_ALONE": 6, "FACES_ALONE": 5, "FACES_AND_VOICES": 4, "ACTED": 7, "OTHERS": 3}
    for name, value in few.items():
        monkeypatch.setattr(shipped, name, value)


@pytest.mark.usefixtures("little")
class TestSteps:
    ALONE = 6 + 5 + 4 + 7 + 3

    @given(dialogues=st.integers(1, 9), rare=st.integers(0, 12), seed=st.integers(0, 99))
    @settings(max_examples=20, deadline=None)
    def test_every_dialogue_once(self, dialogues: int, rare: int, seed: int) -> None:
        material = learnable(0, dialogues + rare)
        # A dialogue is known by its length of speech.
        marked = [replace(rows, words=rows.words + number) for number, rows in enumerate(material.dialogues)]
        material, others = replace(material, dialogues=marked[:dialogues]), marked[dialogues:]
        texts = material.text.copy()
        made = list(steps(material, others, 4, np.random.default_rng(seed)))
        used = dialogues + min(rare, round(shipped.DAILY * dialogues))
        assert len(made) == -(-used // 4)
        seen: Counter[int] = Counter()
        for batch, labels, spoken in made:
            check(batch, labels)
            assert spoken == len(labels) - self.ALONE
            assert spoken % 7 == 0
            length = ((batch.end - batch.start)[:spoken:7] - 0.2) / 0.3 - 4
            seen.update(length.round().int().tolist())
            assert set(labels[:7].tolist()) == set(range(7))
        assert len(seen) == used
        assert set(seen.values()) == {1}
        assert set(range(dialogues)) <= set(seen)
        assert np.array_equal(material.text, texts)  # the noise is not added to the material itself

    def test_what_stands_beside_the_dialogues(self) -> None:
        batch, _, spoken = next(steps(learnable(0, 4), [], 4, np.random.default_rng(0)))
        assert spoken == 4 * 7
        masks = Counter(tuple(map(int, row)) for row in batch.mask[-self.ALONE :].tolist())
        assert masks == {(0, 1, 0): 6 + 3, (0, 0, 1): 5, (0, 1, 1): 4, (1, 1, 0): 2, (1, 0, 1): 2, (1, 1, 1): 3}
        # Three sounds that are no voice are the turns of one dialogue, all others stand alone.
        assert shipped.OTHER_TURNS == 3
        assert len(set(batch.dialogue[-self.ALONE :].tolist())) == self.ALONE - 2


class TestTraining:
    @pytest.fixture
    def prepared(self, little: None, monkeypatch: pytest.MonkeyPatch) -> None:
        names = {"text": "t-1", "audio": "a-1", "vision": "v-1"}

        def read_material(
            data: Path, recipe: RobotRecipe, cache: Path
        ) -> tuple[Material, list[DialogueRows], Material, dict[str, str]]:
            torch.manual_seed(0)  # as reading the faces does
            material = learnable(0, 14)
            rare = material.dialogues[10:]
            return replace(material, dialogues=material.dialogues[:10]), rare, learnable(1, 6), names

        monkeypatch.setattr(shipped, "read_material", read_material)

    @pytest.mark.usefixtures("prepared")
    def test_from_end_to_end(self, tmp_path: Path) -> None:
        recipe = RobotRecipe(epochs=3, batch=4)
        training = shipped.train(tmp_path, tmp_path / "out", recipe, cache=tmp_path, progress=False)
        losses = read_log(tmp_path / "out" / LOG)["train_loss"]
        assert losses[-1] < 0.9 * losses[0]
        assert not list((tmp_path / "out").glob("checkpoint*"))
        model, description = load(tmp_path / "out", labels=EMOTIONS, encoders={"audio": "a-1"})
        assert description.model_id == MODEL_ID
        assert description.training == training
        assert model.config.widths == (9, 7, 8)
        assert all(0.05 <= temperature <= 20 for temperature in model.temperature)
        assert training["epoch"] in (1, 2, 3)
        for figures in training["validation"].values():
            assert figures["utterances"] > 0
            assert all(0 <= value <= 1 for name, value in figures.items() if name != "utterances")
        assert training["validation"]["words, voice and face"]["accuracy"] > 0.5

    @pytest.mark.usefixtures("prepared")
    def test_the_seed_counts(self, tmp_path: Path) -> None:
        made = []
        for number, seed in enumerate((0, 0, 1)):
            recipe = RobotRecipe(epochs=1, batch=4)
            shipped.train(tmp_path, tmp_path / str(number), recipe, cache=tmp_path, seed=seed, progress=False)
            made.append(load(tmp_path / str(number))[0].state_dict())
        assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())
        assert any(
            not torch.allclose(tensor, made[2][name], atol=0.05)
            for name, tensor in made[0].items()
            if tensor.is_floating_point()
        )
