"""Training of heads on what a recogniser's layers tell; the layers are a stub here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from synctva_ros.encoders.voice_heads import VoiceHead, VoiceHeadsConfig
from synctva_ros.events import EMOTIONS, FloatArray
from synctva_ros.training.recipe import VoiceStatesRecipe
from synctva_ros.training.tasks import voice_states
from synctva_ros.training.tasks.voice import VoiceClip
from synctva_ros.training.tasks.voice_states import (
    TOLD,
    HeadTask,
    Told,
    recall,
    settle,
    stranger_moods,
    train_voice_states,
    weights_of,
)

#: Of corpora and their classes; "other" speaks of two only.
CORPORA = {"one": tuple(range(len(EMOTIONS))), "two": tuple(range(len(EMOTIONS))), "other": (0, 3)}
RECIPE = VoiceStatesRecipe(corpora=",".join(CORPORA), folds=2, copies=1, epochs=6, batch=64, learning_rate=0.01)


def made(people: int = 4, takes: int = 4) -> tuple[list[VoiceClip], FloatArray, FloatArray]:
    """Clips whose states say the emotion in some channels, and the person in all."""
    rng = np.random.default_rng(0)
    emotions = rng.normal(size=(len(EMOTIONS), TOLD)) * (np.arange(TOLD) < 200)
    clips, told = [], []
    for corpus, classes in CORPORA.items():
        known = np.isin(np.arange(len(EMOTIONS)), classes)
        for person in range(people):
            offset = rng.normal(size=TOLD)
            for number in classes:
                for take in range(takes):
                    target = np.eye(len(EMOTIONS), dtype=np.float32)[number]
                    file = f"{corpus}-{person}-{number}-{take}"
                    sound = np.zeros(8000, np.float32)
                    clips.append(VoiceClip(file, sound, 0.0, 0.5, target, known, str(person), corpus))
                    told.append(offset + 2.0 * emotions[number] + rng.normal(size=TOLD))
    states = np.asarray(told, np.float32)
    copies = np.stack([states, states + rng.normal(0, 0.1, states.shape).astype(np.float32)])
    return clips, copies, rng.normal(0, 3.0, (20, TOLD)).astype(np.float32)


@pytest.fixture(scope="module")
def told() -> Told:
    return Told.of(*made())


def head_of() -> VoiceHead:
    torch.manual_seed(0)
    return VoiceHead(VoiceHeadsConfig(classes=len(EMOTIONS), members=1, width=TOLD))


def test_all_corpora_weigh_the_same_and_in_each_all_classes(told):
    heard = np.flatnonzero(told.persons != "one/0")
    weight = weights_of(told, heard)
    assert weight[heard].mean() == pytest.approx(1.0)
    assert not weight[told.persons == "one/0"].any()
    for name, classes in CORPORA.items():
        mine = told.corpora == name
        assert weight[mine].sum() == pytest.approx(len(heard) / len(CORPORA), rel=1e-4)
        shares = [weight[mine & (told.labels == number)].sum() for number in classes]
        np.testing.assert_allclose(shares, shares[0], rtol=1e-4)


def test_what_is_usual_is_of_the_same_person_and_of_other_clips(told):
    moods = torch.full((len(told.labels), len(EMOTIONS)), 1.0 / len(EMOTIONS))
    heard = np.arange(len(told.labels))
    task = HeadTask(replace(RECIPE, strangers=0.0), head_of(), told, heard, moods, np.random.default_rng(0))
    for clip in (0, 50, len(heard) - 1):
        for _ in range(20):
            drawn = task._turns_of(clip)
            assert clip not in drawn
            assert set(told.persons[drawn]) == {told.persons[clip]}
            assert 1 <= len(drawn) <= 32


def test_a_class_that_a_corpus_does_not_speak_of_costs_nothing(told):
    head = head_of()
    task = HeadTask(RECIPE, head, told, np.flatnonzero(told.corpora == "other"), None, np.random.default_rng(0))
    batch = next(iter(task.batches()))
    batch = tuple(part[: len(batch[4])] for part in batch)  # without what is no voice
    head.eval()
    before = task.loss(batch)
    with torch.no_grad():
        head.body[-1].bias[5] += 10.0  # of which "other" does not speak
    torch.testing.assert_close(task.loss(batch), before)
    with torch.no_grad():
        head.body[-1].bias[3] += 10.0
    assert task.loss(batch) != before


def test_of_what_is_no_voice_nothing_can_be_said(told):
    head = head_of()
    task = HeadTask(RECIPE, head, told, np.arange(len(told.labels)), None, np.random.default_rng(0))
    states, usual, moods, turns, rows = next(iter(task.batches()))
    assert len(states) == len(rows) + round(0.1 * len(rows))
    assert set(map(tuple, states[len(rows) :, :3].tolist())) <= set(map(tuple, told.no_voice[:, :3].tolist()))
    head.eval()
    no_voice = tuple(part[len(rows) :] for part in (states, usual, moods, turns))
    with torch.no_grad():
        head.body[-1].weight.zero_()
        head.body[-1].bias.zero_()
    even = task.loss((*no_voice, rows[:0]))
    assert even.item() == pytest.approx(np.log(len(EMOTIONS)))
    with torch.no_grad():
        head.body[-1].bias[2] = 3.0
    assert task.loss((*no_voice, rows[:0])) > even


def test_training_learns_and_knowing_the_person_helps(tmp_path, monkeypatch):
    clips, states, no_voice = made()
    monkeypatch.setattr(voice_states, "packaged_states", lambda: None)
    monkeypatch.setattr(voice_states, "read_clips", lambda data, corpora: clips)
    monkeypatch.setattr(voice_states, "describe_all", lambda *_: states)
    monkeypatch.setattr(voice_states, "describe_no_voice", lambda *_: no_voice)
    monkeypatch.setattr(voice_states, "licence_of", lambda corpora: "none")
    figures = train_voice_states(Path(), tmp_path, RECIPE, progress=False)
    assert set(figures) == {
        f"{away}, {known}"
        for away in ("without one", "without two", "without other", "people 1", "people 2")
        for known in ("strangers", "known")
    }
    strangers = np.mean([figures[f"{away}, strangers"] for away in ("without one", "without two", "people 1")])
    known = np.mean([figures[f"{away}, known"] for away in ("without one", "without two", "people 1")])
    assert known > strangers > 2.0 / len(EMOTIONS)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["architecture"] == "voice-states"
    assert about["network"]["members"] == 5
    unheard = about["training"]["unheard_speakers"]
    assert unheard[0] == [f"one/{person}" for person in range(4)]
    assert sorted(unheard[3] + unheard[4]) == sorted({clip.person for clip in clips})
    assert not list(tmp_path.glob("member-*/*.pt"))


def test_who_is_left_out_leaves_no_trace(told):
    """Neither their labels nor their states change anything of the member that has not heard them."""

    def trained(material: Told) -> dict[str, torch.Tensor]:
        away = told.corpora == "two"
        head = head_of()
        settle(head, material, ~away)
        moods = stranger_moods(head, material)
        task = HeadTask(RECIPE, head, material, np.flatnonzero(~away), moods, np.random.default_rng(0))
        torch.manual_seed(0)
        head.train()
        for batch in task.batches():
            task.optimizer.zero_grad()
            task.loss(batch).backward()
            task.optimizer.step()
        return head.state_dict()

    away = told.corpora == "two"
    labels, states = told.labels.copy(), told.states.clone()
    labels[away] = 0
    states[:, away] += 3.0
    one, other = trained(told), trained(replace(told, labels=labels, states=states))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name])


def test_a_recall_by_hand(told):
    class Knows(VoiceHead):
        def forward(self, told, usual, moods, turns):
            return torch.nn.functional.one_hot((turns > 0).long() * 3, len(EMOTIONS)).float()

    head = Knows(VoiceHeadsConfig(classes=len(EMOTIONS), members=1, width=TOLD))
    away = told.corpora == "other"  # classes 0 and 3, four people
    assert recall(head, told, away, known=False, seed=0) == 0.5
    # All but the first turn of each person are taken for class 3.
    found = recall(head, told, away, known=True, seed=0)
    first = [0, 1, 2, 3, 4]
    assert any(found == pytest.approx((n / 16 + (12 + n) / 16) / 2) for n in first)
