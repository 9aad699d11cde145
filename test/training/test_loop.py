"""The training loop on a small network: what it keeps, when it stops, and that an interruption changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from synctva_ros.training import loop
from synctva_ros.training.checkpoint import CHECKPOINT
from synctva_ros.training.loop import (
    LOG,
    Task,
    TrainingError,
    fit,
    forget,
    half_precision,
    one_cycle,
    read_log,
    seeded,
    side_by_side,
)
from synctva_ros.training.recipe import Schedule

SCHEDULE = Schedule(epochs=5, batch=8, learning_rate=0.05, averaging=0.5)
STEPS = 6


class Line(Task):
    """Find the weights of a noisy line; draws from all generators that there are."""

    selection = "score"

    def __init__(self, seed: int = 0, scores: list[float] | None = None) -> None:
        self.rng = seeded(seed)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1))
        self.optimizer = torch.optim.AdamW(self.network.parameters(), SCHEDULE.learning_rate)
        self.steps = STEPS
        self.scores = scores
        self.seen: list[Tensor] = []

    def batches(self) -> Iterator[Tensor]:
        for _ in range(self.steps):
            yield torch.from_numpy(self.rng.standard_normal((SCHEDULE.batch, 3)).astype(np.float32))

    def loss(self, batch: Tensor) -> Tensor:
        self.seen.append(batch)
        wanted = batch @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(len(batch))
        return (self.network(batch).squeeze(1) - wanted).square().mean()

    def validate(self, network: nn.Module) -> dict[str, float]:
        assert not network.training
        weight: Any = network.get_parameter("0.weight")
        return {
            "score": float(weight.detach().sum())
            if self.scores is None
            else self.scores[len(self.seen) // self.steps - 1]
        }


def state(task: Task) -> list[Tensor]:
    return list(task.network.state_dict().values())


def is_same(one: Task, other: Task) -> bool:
    return all(torch.equal(a, b) for a, b in zip(state(one), state(other), strict=True))


class Interruption(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize("averaging", [0.0, 0.5])
@pytest.mark.parametrize("step", [1, STEPS, STEPS + 1, 2 * STEPS + 3, 5 * STEPS])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path: Path, step: int, averaging: float) -> None:
    schedule = replace(SCHEDULE, averaging=averaging)
    whole = Line()
    fit(whole, schedule, tmp_path / "whole", "line", progress=False)
    first = Line()
    works, calls = first.loss, iter(range(1, 99))

    def interrupted(batch: Tensor) -> Tensor:
        if next(calls) == step:
            raise Interruption
        return works(batch)

    first.loss = interrupted  # type: ignore[method-assign]
    with pytest.raises(Interruption):
        fit(first, schedule, tmp_path / "parts", "line", progress=False)
    second = Line()
    if step > STEPS:
        torch.rand(7)  # somebody draws in between
    history = fit(second, schedule, tmp_path / "parts", "line", progress=False)
    assert len(second.seen) == STEPS * (schedule.epochs - (step - 1) // STEPS)  # the finished epochs are not done again
    assert is_same(whole, second)
    assert not second.network.training
    written = [read_log(tmp_path / name / LOG) for name in ("whole", "parts")]
    assert written[0]["train_loss"] == written[1]["train_loss"]
    assert len(history.columns["score"]) == schedule.epochs


def test_a_finished_training_is_not_done_again_until_it_is_forgotten(tmp_path: Path) -> None:
    first, again, anew = Line(), Line(), Line()
    fit(first, SCHEDULE, tmp_path, "line", progress=False)
    fit(again, SCHEDULE, tmp_path, "line", progress=False)
    assert not again.seen
    assert is_same(first, again)
    forget(tmp_path)
    fit(anew, SCHEDULE, tmp_path, "line", progress=False)
    assert len(anew.seen) == STEPS * SCHEDULE.epochs


@pytest.mark.parametrize(
    ("change", "made_of"), [({"learning_rate": 0.01}, {"seed": 0}), ({}, {"seed": 1}), ({"epochs": 9}, {"seed": 0})]
)
def test_another_training_is_not_gone_on_with(tmp_path: Path, change: dict[str, Any], made_of: dict[str, int]) -> None:
    fit(Line(), SCHEDULE, tmp_path, "line", made_of={"seed": 0}, progress=False)
    sentence = rf"{CHECKPOINT} is of another training \(its settings are others\): delete it to begin line again"
    with pytest.raises(TrainingError, match=sentence):
        fit(Line(), replace(SCHEDULE, **change), tmp_path, "line", made_of=made_of, progress=False)


def test_it_learns(tmp_path: Path) -> None:
    task = Line()
    losses = fit(task, replace(SCHEDULE, epochs=30), tmp_path, "line", progress=False).columns["train_loss"]
    assert losses[-1] < 0.3 * losses[0]


@given(scores=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3]), min_size=4, max_size=4))
def test_the_best_epoch_is_kept(tmp_path_factory: pytest.TempPathFactory, scores: list[float]) -> None:
    """By the mean over three epochs, the last one of equals."""
    folder, schedule = tmp_path_factory.mktemp("best"), replace(SCHEDULE, epochs=4, averaging=0.0)
    task, states = Line(scores=scores), []
    validate = task.validate

    def look(network: nn.Module) -> dict[str, float]:
        states.append([tensor.clone() for tensor in network.state_dict().values()])
        return validate(network)

    task.validate = look  # type: ignore[method-assign]
    history = fit(task, schedule, folder, "line", progress=False)
    means = [float(np.mean(scores[max(0, last - 2) : last + 1])) for last in range(4)]
    chosen = max(number for number, mean in enumerate(means, start=1) if mean == max(means))
    assert history.chosen("score") == chosen
    assert all(torch.equal(a, b) for a, b in zip(state(task), states[chosen - 1], strict=True))


def test_without_a_score_the_last_epoch_is_kept(tmp_path: Path) -> None:
    task = Line()
    task.validate = lambda network: {}  # type: ignore[method-assign]
    assert fit(task, SCHEDULE, tmp_path, "line", progress=False).chosen("score") == SCHEDULE.epochs


def test_it_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    scores = [0.5, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    schedule = replace(SCHEDULE, epochs=8, patience=2)
    task = Line(scores=scores)
    history = fit(task, schedule, tmp_path, "line", progress=False)
    assert history.chosen("score") == 2
    assert len(history.columns["score"]) == 4
    again = Line(scores=scores)
    fit(again, schedule, tmp_path, "line", progress=False)
    assert not again.seen
    assert is_same(task, again)


def test_the_average_follows_fast_at_first_and_then_slowly(tmp_path: Path) -> None:
    """Buffers of whole numbers are taken as they are."""
    task, means, weights = Line(), [], []
    update = torch.optim.swa_utils.AveragedModel.update_parameters

    def seen(average: Any, network: nn.Module) -> None:
        update(average, network)
        means.append(average.module[0].weight.detach().clone())
        weights.append(task.network[0].weight.detach().clone())  # type: ignore[index]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.swa_utils.AveragedModel, "update_parameters", seen)
        fit(task, replace(SCHEDULE, averaging=0.4), tmp_path, "line", progress=False)
    assert torch.equal(means[0], weights[0])
    for step in range(1, len(means)):
        decay = min(0.4, (2 + step) / (11 + step))
        torch.testing.assert_close(means[step], decay * means[step - 1] + (1 - decay) * weights[step])
    assert task.network[1].num_batches_tracked == STEPS * SCHEDULE.epochs  # type: ignore[index]


def test_gradients_are_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda given, most: lengths.append(most) or clip(given, most))
    fit(Line(), replace(SCHEDULE, clip=0.25), tmp_path / "a", "line", progress=False)
    assert set(lengths) == {0.25}
    lengths.clear()
    fit(Line(), replace(SCHEDULE, clip=0.0), tmp_path / "b", "line", progress=False)
    assert not lengths


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path, wrong: float) -> None:
    task = Line()
    task.loss = lambda batch: task.network(batch).sum() * wrong  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"line: the loss is (nan|-?inf) in epoch 1: lower the learning rate"):
        fit(task, SCHEDULE, tmp_path, "line", progress=False)


@given(warm_up=st.floats(0.0, 0.9))
def test_the_rate_rises_and_then_falls(warm_up: float) -> None:
    rates = [one_cycle(step / 200, warm_up) for step in range(201)]
    top = int(np.argmax(rates))
    assert abs(top / 200 - warm_up) <= 1 / 200 + 1e-9
    assert 0.95 < rates[top] <= 1.0
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)


def test_the_log_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    history = fit(Line(), SCHEDULE, tmp_path, "line", progress=False)
    written = read_log(tmp_path / LOG)
    assert list(written) == ["epoch", "seconds", "train_loss", "score"]
    assert written["epoch"] == [1, 2, 3, 4, 5]
    assert written["train_loss"] == pytest.approx(history.columns["train_loss"], rel=1e-5)


def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = fit(Line(), SCHEDULE, tmp_path, "line", progress=False)
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    scalars = read.Scalars("train_loss")
    assert [scalar.step for scalar in scalars] == [1, 2, 3, 4, 5]
    assert [scalar.value for scalar in scalars] == pytest.approx(history.columns["train_loss"])


def test_without_tensorboard_it_trains_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    fit(Line(), SCHEDULE, tmp_path, "line", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, LOG]


def double(number: int, wait: float) -> tuple[int, int]:
    time.sleep(wait)
    return 2 * number, torch.get_num_threads()


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_side_by_side_come_in_their_order(workers: int) -> None:
    """The first one takes longest."""
    found = list(side_by_side(double, [(1, 0.5), (2, 0.0), (3, 0.0)], workers))
    assert [number for number, _ in found] == [2, 4, 6]
    if workers > 1:
        assert {threads for _, threads in found} == {1}


def test_what_fails_in_another_process_is_said() -> None:
    works: Callable[..., Any] = int
    with pytest.raises(ValueError, match="invalid literal"):
        list(side_by_side(works, [("1",), ("x",)], 2))
    assert loop.SMOOTHED == 3


@pytest.mark.parametrize(("instructions", "is_half"), [({"avx2"}, False), ({"avx512_bf16"}, True), ({"bf16"}, True)])
def test_half_precision_is_for_processors_that_compute_with_it(monkeypatch, instructions, is_half):
    able = {name: name in instructions for name in ("avx2", "avx512_bf16", "amx_bf16", "bf16")}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    with half_precision():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if is_half else torch.float32)


def test_a_pytorch_that_does_not_tell_its_processor_computes_in_full_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    with half_precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
