from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from synctva_ros.events import MODALITIES
from synctva_ros.network.explanation import explain
from synctva_ros.network.synctva import PARTS, DialogueBatch, SyncTVA, SyncTVAConfig
from synctva_ros.training.data.dialogues import Dialogue, read_corpus

WIDTHS = (12, 9, 7)
SMALL = SyncTVAConfig(widths=WIDTHS, classes=5, hidden=16, heads=2, window=3)
CORPORA = Path(os.environ.get("SYNCTVA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "erc"
QUICK = settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def make_model(config: SyncTVAConfig = SMALL) -> SyncTVA:
    torch.manual_seed(1)
    model = SyncTVA(config)
    torch.nn.init.normal_(model.fusion.share_query)
    model.temperature = (1.5, 0.7, 1.0)
    return model.eval()


def make_batch(count: int, seed: int = 0) -> DialogueBatch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, 3, generator=generator) < 0.6
    mask[torch.arange(count), torch.randint(3, (count,), generator=generator)] = True
    start = torch.arange(count) * 3.0 + torch.rand(count, generator=generator)
    text, audio, vision = (torch.randn(count, width, generator=generator) for width in WIDTHS)
    speaker = torch.randint(-1, 3, (count,), generator=generator)
    return DialogueBatch(text, audio, vision, mask, start, start + 2.0, speaker, torch.zeros(count, dtype=torch.long))


def rows(batch: DialogueBatch, chosen: slice | Tensor) -> DialogueBatch:
    return DialogueBatch(**{name: tensor[chosen] for name, tensor in vars(batch).items()})


def without_turn(batch: DialogueBatch, turn: int) -> DialogueBatch:
    return rows(batch, torch.arange(len(batch)) != turn)


def without_modality(batch: DialogueBatch, row: int, modality: int) -> DialogueBatch:
    mask = batch.mask.clone()
    mask[row, modality] = False
    return replace(batch, mask=mask)


def distance(p: Tensor, q: Tensor) -> float:
    return 0.5 * float((p - q).abs().sum())


@QUICK
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 8),
    data=st.data(),
    full=st.booleans(),
    earlier=st.integers(0, 5),
    nearest=st.sampled_from([None, 1, 2, 9]),
)
def test_it_is_what_leaving_out_does(
    seed: int, count: int, data: st.DataObject, full: bool, earlier: int, nearest: int | None
) -> None:
    """The definition, one copy of the dialogue after the other, each alone."""
    row = data.draw(st.integers(0, count - 1), label="row")
    model = make_model(replace(SMALL, context="full" if full else "causal"))
    batch = make_batch(count, seed)
    past = model(make_batch(earlier, seed + 1)).memory if earlier else None

    def probabilities(changed: DialogueBatch, asked: int) -> Tensor:
        return model.probabilities(model(changed, past))[asked].detach()

    found = explain(model, batch, past, row=row, nearest=nearest)
    plain = probabilities(batch, row)
    torch.testing.assert_close(found.probabilities, plain, atol=1e-5, rtol=1e-5)

    present = batch.mask[row].nonzero().squeeze(1).tolist()
    expected = torch.zeros(3)
    for m in present:
        expected[m] = 1.0
        if len(present) > 1:
            expected[m] = distance(plain, probabilities(without_modality(batch, row, m), row))
    torch.testing.assert_close(found.contributions, expected / expected.sum(), atol=2e-3, rtol=1e-3)

    span = min(3 if nearest is None else nearest, 3)
    others = [j for j in range(count) if j != row]
    weights = torch.zeros(count - 1)
    for position, j in enumerate(others):
        if abs(j - row) <= span and (full or j < row):
            weights[position] = distance(plain, probabilities(without_turn(batch, j), row - (j < row)))
    if weights.sum() > 0.0:
        weights /= weights.sum()
    torch.testing.assert_close(found.context, weights, atol=2e-3, rtol=1e-3)


def test_sums_and_the_last_row() -> None:
    model = make_model()
    batch = make_batch(8)
    batch.mask[-1] = True
    found = explain(model, batch)
    assert found.probabilities.shape == (5,)
    assert float(found.probabilities.sum()) == pytest.approx(1.0, abs=1e-5)
    assert found.contributions.shape == (3,)
    assert float(found.contributions.sum()) == pytest.approx(1.0, abs=1e-5)
    assert found.context.shape == (7,)
    assert float(found.context.sum()) == pytest.approx(1.0, abs=1e-5)
    assert (found.context > 0.0).tolist() == [False] * 4 + [True] * 3
    last = explain(model, batch, row=7)
    assert torch.equal(found.context, last.context)
    assert (explain(model, batch, nearest=0).context == 0.0).all()


def test_the_first_utterance_has_no_context() -> None:
    found = explain(make_model(), make_batch(1))
    assert found.context.shape == (0,)


@pytest.mark.parametrize("modality", range(3))
def test_the_only_modality_counts_for_all(modality: int) -> None:
    batch = make_batch(4)
    batch.mask[-1] = torch.arange(3) == modality
    assert explain(make_model(), batch).contributions.tolist() == [float(m == modality) for m in range(3)]


def test_a_modality_that_the_network_has_not_does_not_count() -> None:
    model = make_model(replace(SMALL, widths=(12, 0, 7)))
    batch = replace(make_batch(4), audio=torch.zeros(4, 0))
    batch.mask[:] = True
    text, audio, vision = explain(model, batch).contributions.tolist()
    assert (audio, text + vision) == (0.0, pytest.approx(1.0, abs=1e-5))


def test_where_nothing_matters_nothing_is_made_up() -> None:
    """Copies in one batch differ by rounding, which must not become weights."""
    batch = make_batch(6)
    batch.mask[-1] = torch.tensor([True, False, True])
    deaf = make_model()
    for classifier in deaf.fusion.classifier:
        torch.nn.init.zeros_(classifier[-1].weight)
        torch.nn.init.zeros_(classifier[-1].bias)
    found = explain(deaf, batch)
    assert found.contributions.tolist() == [0.5, 0.0, 0.5]
    assert (found.context == 0.0).all()
    alone = explain(make_model(replace(SMALL, without=PARTS)), batch)
    assert (alone.context == 0.0).all()
    assert float(alone.contributions.sum()) == pytest.approx(1.0, abs=1e-5)


def test_what_is_refused() -> None:
    model = make_model()
    batch = make_batch(3)
    with pytest.raises(ValueError, match=r"there is no row 3: name one of 0 to 2"):
        explain(model, batch, row=3)
    with pytest.raises(ValueError, match=r"there is no row -1"):
        explain(model, batch, row=-1)
    with pytest.raises(ValueError, match="several dialogues"):
        explain(model, replace(batch, dialogue=torch.tensor([0, 0, 1])))
    with pytest.raises(ValueError, match=r"call its eval\(\) first"):
        explain(make_model().train(), batch)
    with pytest.raises(ValueError, match="no utterances"):
        explain(model, rows(batch, slice(0)))
    batch.mask[1] = False
    with pytest.raises(ValueError, match="row 1 has no modality"):
        explain(model, batch)


# Is it faithful? By definition, where the probabilities are looked at and something is left out. So other figures are
# looked at here, the logit of the predicted class, and other changes: an utterance that others said in its place.
REPLACEMENTS = 5

Dialogues = list[tuple[DialogueBatch, Tensor]]


def joined(dialogues: Dialogues) -> tuple[DialogueBatch, Tensor]:
    fields = {name: torch.cat([vars(batch)[name] for batch, _ in dialogues]) for name in vars(dialogues[0][0])}
    lengths = torch.tensor([len(batch) for batch, _ in dialogues])
    fields["dialogue"] = torch.repeat_interleave(lengths)
    return DialogueBatch(**fields), torch.cat([labels for _, labels in dialogues])


def synthetic(context: Literal["causal", "full"]) -> tuple[SyncTVA, Dialogues]:
    """The class is said in the text and audible, or neither, and then it is that of one of the two turns before.

    Which one is given by the utterance's vision.
    """
    generator = torch.Generator().manual_seed(0)
    codes = [2.0 * torch.randn(4, width, generator=generator) for width in WIDTHS]
    dialogues = []
    for _ in range(80):
        batch = make_batch(8, int(torch.randint(10**6, (), generator=generator)))
        batch.mask[:] = True
        said = torch.randint(4, (8,), generator=generator)
        labels = said.clone()
        for i in range(8):
            voiced = float(torch.rand((), generator=generator))
            batch.text[i] += codes[0][said[i]]
            batch.audio[i] += voiced * codes[1][said[i]]
            back = i % 3
            batch.vision[i] = 0.3 * batch.vision[i] + codes[2][back]
            labels[i] = said[i - back] if back <= i else said[i]
        dialogues.append((batch, labels))
    return trained(
        SyncTVAConfig(WIDTHS, 4, 32, 2, window=3, context=context, dropout=0.1), dialogues[:70], 25
    ), dialogues[70:]


def hashed_words(dialogue: Dialogue, width: int) -> Tensor:
    """A bag of words in which words share channels: needs no encoder."""
    vectors = torch.zeros(len(dialogue.texts), width)
    for vector, text in zip(vectors, dialogue.texts, strict=True):
        for word in text.lower().split():
            vector[zlib.crc32(word.strip(".,!?").encode()) % width] += 1.0
    return vectors


def recorded(context: Literal["causal", "full"]) -> tuple[SyncTVA, Dialogues]:
    """IEMOCAP: the first 20 turns of its dialogues."""
    dialogues: dict[str, Dialogues] = {}
    for split in ("train", "valid"):
        dialogues[split] = []
        for dialogue in read_corpus(CORPORA, "iemocap", split).dialogues:
            audio = torch.from_numpy(np.asarray(dialogue.audio, dtype=np.float32))[:20]
            count = len(audio)
            names = {name: k for k, name in enumerate(dict.fromkeys(dialogue.speakers))}
            start = torch.arange(count) * 3.0
            there = torch.stack([torch.ones(count), torch.isfinite(audio).all(1), torch.zeros(count)], dim=1).bool()
            batch = DialogueBatch(
                text=hashed_words(dialogue, 200)[:20],
                audio=audio,
                vision=torch.zeros(count, 0),
                mask=there,
                start=start,
                end=start + 2.0,
                speaker=torch.tensor([names[name] for name in dialogue.speakers[:20]]),
                dialogue=torch.zeros(count, dtype=torch.long),
            )
            dialogues[split].append((batch, torch.from_numpy(dialogue.labels[:20].astype(np.int64))))
    config = SyncTVAConfig((200, dialogues["train"][0][0].audio.shape[1], 0), 6, 32, 2, window=5, context=context)
    return trained(config, dialogues["train"], 6), dialogues["valid"]


def trained(config: SyncTVAConfig, dialogues: Dialogues, epochs: int) -> SyncTVA:
    torch.manual_seed(0)
    model = SyncTVA(config)
    batch, _ = joined(dialogues)
    for project, m in zip(model.projection, config.modalities, strict=True):
        project.fit(getattr(batch, MODALITIES[m])[batch.mask[:, m]])  # type: ignore[operator]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(epochs):
        for chosen in torch.randperm(len(dialogues)).split(10):
            batch, labels = joined([dialogues[k] for k in chosen])
            optimiser.zero_grad()
            cross_entropy(model.train()(batch).logits, labels).backward()
            optimiser.step()
    return model.eval()


@pytest.mark.parametrize("context", ["causal", "full"])
@pytest.mark.parametrize(
    "source",
    [
        synthetic,
        pytest.param(
            recorded,
            marks=pytest.mark.skipif(
                not (CORPORA / "iemocap_train.jsonl").is_file(),
                reason="needs IEMOCAP: set SYNCTVA_DATA to the folder that holds erc/",
            ),
        ),
    ],
)
def test_what_is_said_to_matter_matters(
    source: Callable[[Literal["causal", "full"]], tuple[SyncTVA, Dialogues]], context: Literal["causal", "full"]
) -> None:
    model, dialogues = source(context)
    everything, labels = joined(dialogues)
    with torch.inference_mode():
        accuracy = (model(everything).logits.argmax(1) == labels).float().mean()
    assert accuracy > 0.45  # with less, there is nothing to explain
    generator = torch.Generator().manual_seed(0)
    moved: dict[tuple[str, str], list[float]] = {}
    for batch, _ in dialogues:
        for row in range(2, len(batch), 2):
            for change, by_logit, by_probability in changes(model, batch, row, everything, generator):
                moved.setdefault((change, "logit"), []).append(by_logit)
                moved.setdefault((change, "probabilities"), []).append(by_probability)
    for what in ("turn", "modality"):
        for how in ("left out", "replaced"):
            for measure in ("logit", "probabilities"):
                most, least = (np.mean(moved[f"{which} {what} {how}", measure]) for which in ("most", "least"))
                assert most > least, f"{what} {how}, {measure}: {most:.3f}, {least:.3f}"


def changes(
    model: SyncTVA, batch: DialogueBatch, row: int, everything: DialogueBatch, generator: torch.Generator
) -> list[tuple[str, float, float]]:
    """How far the output for ``row`` moves when what is said to matter most or least for it is changed."""
    found = explain(model, batch, row=row)
    tried: list[tuple[str, DialogueBatch, int]] = [("", batch, row)]
    window, ahead = model.config.window, len(batch) if model.config.context == "full" else row
    turns = [j for j in range(len(batch)) if 0 < abs(j - row) <= window and j <= ahead]
    turns.sort(key=lambda j: float(found.context[j - (j > row)]))
    present = [m for m in model.config.modalities if batch.mask[row, m]]
    present.sort(key=lambda m: float(found.contributions[m]))
    for which, end in (("least", 0), ("most", -1)):
        turn = turns[end]
        tried.append((f"{which} turn left out", without_turn(batch, turn), row - (turn < row)))
        if len(present) > 1:
            tried.append((f"{which} modality left out", without_modality(batch, row, present[end]), row))
        for replacement in torch.randint(len(everything), (REPLACEMENTS,), generator=generator).tolist():
            other = put_in(batch, turn, everything, replacement, model.config.modalities)
            tried.append((f"{which} turn replaced", other, row))
            if len(present) > 1:
                other = put_in(batch, row, everything, replacement, (present[end],))
                tried.append((f"{which} modality replaced", other, row))
    copies, _ = joined([(copy, torch.zeros(0)) for _, copy, _ in tried])
    first = torch.tensor([0, *(len(copy) for _, copy, _ in tried)]).cumsum(0)[:-1]
    asked = first + torch.tensor([at for _, _, at in tried])
    with torch.inference_mode():
        output = model(copies)
        logits, probabilities = output.logits[asked], model.probabilities(output)[asked]
    label = int(logits[0].argmax())
    return [
        (change, float((logits[k] - logits[0])[label].abs()), distance(probabilities[k], probabilities[0]))
        for k, (change, _, _) in enumerate(tried)
        if k
    ]


def put_in(
    batch: DialogueBatch, row: int, everything: DialogueBatch, replacement: int, modalities: tuple[int, ...]
) -> DialogueBatch:
    """The vectors of another utterance in place of those of ``row``."""
    changed = {}
    for name in (MODALITIES[m] for m in modalities):
        changed[name] = getattr(batch, name).clone()
        changed[name][row] = getattr(everything, name)[replacement]
    return replace(batch, **changed)
