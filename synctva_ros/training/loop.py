"""The training loop: there is one, and every training goes through it.

A :class:`Task` says what is trained, on what, and how well it does; the loop does the rest: the steps, the schedule of
the learning rate, the moving average of the weights, the choice of an epoch, early stopping, the log, and going on
where an interruption was. The same seed gives the same bits on the same kind of processor and number of threads,
interrupted or not.
"""

from __future__ import annotations

import csv
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synctva_ros.training.checkpoint import (
    CHECKPOINT,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from synctva_ros.training.recipe import Schedule, as_settings

LOG = "log.csv"
#: An epoch is judged by the mean over this many: validation sets are small, and one lucky epoch is no reason.
SMOOTHED = 3
#: What PyTorch calls the instructions for bfloat16, of x86 and of ARM processors.
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")


class TrainingError(ValueError):
    """A training cannot go on; the message says why and what to do."""


class Task(ABC):
    """What is trained, and on what.

    Attributes:
        network: everything whose weights are kept.
        optimizer: of all that is trained.
        rng: what draws everything that NumPy draws; PyTorch's own generator draws the rest.
        steps: batches of an epoch.
        selection: what the epoch is chosen by, one of the names that ``validate`` gives.
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    steps: int
    selection: str = ""

    @abstractmethod
    def batches(self) -> Iterable[Any]:
        """The batches of an epoch, ``steps`` of them."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch, a scalar."""

    def validate(self, network: nn.Module) -> dict[str, float]:
        """How well a network of this kind does on what it is not trained on; nothing: the last epoch is kept."""
        return {}


@dataclass
class History:
    """What the epochs brought, a number for each: the seconds, the mean loss, what ``validate`` gave."""

    columns: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, float]) -> None:
        """Put down one more epoch."""
        for name, value in row.items():
            self.columns.setdefault(name, []).append(value)

    def smoothed(self, name: str) -> list[float]:
        """A column, each value averaged with those of the epochs before."""
        values = self.columns[name]
        return [float(np.mean(values[max(0, last + 1 - SMOOTHED) : last + 1])) for last in range(len(values))]

    def chosen(self, name: str) -> int:
        """Number of the best epoch by this column, from 1, the last one of equals; the last of all without a column."""
        values: Sequence[float] = self.smoothed(name) if name in self.columns else range(len(self.columns["seconds"]))
        return max(number for number, value in enumerate(values, start=1) if value == max(values))

    def write(self, path: Path) -> None:
        """Write a table, one row an epoch."""
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["epoch", *self.columns])
            rows = zip(*self.columns.values(), strict=True)
            table.writerows([number, *map(_short, row)] for number, row in enumerate(rows, start=1))


def read_log(path: Path) -> dict[str, list[float]]:
    """The columns of a log that the loop wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def half_precision() -> torch.autocast:
    """Compute in bfloat16 where the processor can; others would emulate it, 15 times slower than in float32."""
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch does not say
    return torch.autocast("cpu", torch.bfloat16, enabled=any(able.get(name, False) for name in BFLOAT16))


def seeded(seed: int) -> np.random.Generator:
    """Set PyTorch's generator, and make one of NumPy's."""
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def fit(
    task: Task,
    schedule: Schedule,
    folder: Path,
    title: str,
    *,
    made_of: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> History:
    """Train; afterwards ``task.network`` has the weights that are kept.

    ``folder`` gets the log, TensorBoard's events where that is installed, and after each epoch a checkpoint. A training
    that was interrupted goes on from there, and one that came to its end is not done again, until :func:`forget` is
    called when all else is written.

    Args:
        task: what to train; its network and generators must be as they are at the start of a training.
        schedule: how long, and how fast.
        folder: of this training alone.
        title: for the progress bar and for errors, such as "seed 1".
        made_of: what else makes this training another one, ready for JSON.
        progress: show a bar.

    Raises:
        TrainingError: the loss is no longer finite, or the checkpoint is of another training.
        ValueError: the checkpoint cannot be read.
    """
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    identity = json.loads(json.dumps({"schedule": as_settings(schedule), **(made_of or {})}))
    average: torch.optim.swa_utils.AveragedModel | None = None
    if schedule.averaging:
        average = torch.optim.swa_utils.AveragedModel(
            task.network, multi_avg_fn=_follow(schedule.averaging), use_buffers=True
        )
    kept = task.network if average is None else average.module
    history, best, begun, spent = History(), dict[str, Tensor](), 0, 0.0
    if (stored := load_checkpoint(folder)) is not None:
        groups, done = stored
        try:
            if done["made_of"] != identity:
                raise ValueError("its settings are others")
            if average is not None:
                average.load_state_dict(groups["average"])
            task.network.load_state_dict(groups["network"])
            restore_optimizer(task.optimizer, groups.get("optimizer", {}))
            torch.set_rng_state(groups["random"]["torch"])
            task.rng.bit_generator.state = done["random"]
            best, history, begun, spent = groups["best"], History(done["history"]), done["epoch"], done["seconds"]
            _load(task.network, best, check_only=True)  # tried now rather than after the last epoch
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{folder / CHECKPOINT} is of another training ({' '.join(str(error).split())}): delete it to begin "
                f"{title} again"
            ) from error
    total = schedule.epochs * task.steps
    rate = torch.optim.lr_scheduler.LambdaLR(
        task.optimizer, lambda step: one_cycle((step + begun * task.steps) / total, schedule.warm_up)
    )
    trained = [each for group in task.optimizer.param_groups for each in group["params"]]
    board = _tensorboard(folder, begun)
    bar = tqdm(total=total, initial=begun * task.steps, disable=not progress, desc=title, unit="step")
    for epoch in range(begun, schedule.epochs):
        if epoch and 0 < schedule.patience <= epoch - history.chosen(task.selection):
            break
        began, losses = time.monotonic(), 0.0
        task.network.train()
        for batch in task.batches():
            loss = task.loss(batch)
            if not math.isfinite(value := loss.item()):
                raise TrainingError(f"{title}: the loss is {value} in epoch {epoch + 1}: lower the learning rate")
            task.optimizer.zero_grad()
            loss.backward()
            if schedule.clip:
                nn.utils.clip_grad_norm_(trained, schedule.clip)
            task.optimizer.step()
            rate.step()
            if average is not None:
                average.update_parameters(task.network)
            losses += value / task.steps
            bar.update()
        scores = task.validate(kept.eval())
        history.add({"seconds": time.monotonic() - began, "train_loss": losses, **scores})
        spent += history.columns["seconds"][-1]
        if history.chosen(task.selection) == epoch + 1:
            best = {name: tensor.detach().clone() for name, tensor in kept.state_dict().items()}
        for name, values in history.columns.items():
            board(name, values[-1], epoch + 1)
        bar.set_postfix({name: f"{value:.3f}" for name, value in scores.items() if name == task.selection})
        history.write(folder / LOG)
        save_checkpoint(
            folder,
            {
                "network": task.network.state_dict(),
                "average": {} if average is None else average.state_dict(),
                "optimizer": optimizer_tensors(task.optimizer),
                "random": {"torch": torch.get_rng_state()},
                "best": best,
            },
            {
                "made_of": identity,
                "epoch": epoch + 1,
                "seconds": spent,
                "history": history.columns,
                "random": task.rng.bit_generator.state,
            },
        )
    bar.close()
    _load(task.network, best)
    task.network.eval()
    return history


def forget(folder: Path) -> None:
    """Delete the checkpoint: the training is over, and what it made is written."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def one_cycle(progress: float, warm_up: float) -> float:
    """Share of the largest learning rate: up in the first part of the steps, then down along a cosine.

    After Smith and Topin 2018 (https://arxiv.org/abs/1708.07120).
    """
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return max(0.5 * (1.0 + math.cos(math.pi * min((progress - warm_up) / (1.0 - warm_up), 1.0))), 1e-4)


def side_by_side(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterable[Any]:
    """The results of ``work`` for each of the jobs, in their order; several processes do them.

    Each process has one thread of PyTorch: the matrices are small, and two processes use two cores better than two
    threads do. With one job or one worker it is done here. Tensors among the arguments would need an open file each:
    pass arrays.
    """
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            yield work(*job)
        return
    # A forked process would inherit the threads' locks, but not the threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(work, *zip(*jobs, strict=True))


def _follow(averaging: float) -> Callable[[Any, Any, Any], None]:
    """How the average moves towards the weights: fast at first, for it starts from weights that know nothing."""

    @torch.no_grad()
    def move(averages: Any, weights: Any, count: Any) -> None:
        decay = min(averaging, (2 + int(count)) / (11 + int(count)))
        for mean, now in zip(averages, weights, strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    return move


def _load(network: nn.Module, state: Mapping[str, Tensor], check_only: bool = False) -> None:
    now = {name: tensor.clone() for name, tensor in network.state_dict().items()} if check_only else None
    network.load_state_dict(state)
    if now is not None:
        network.load_state_dict(now)


def _tensorboard(folder: Path, begun: int) -> Callable[[str, float, int], None]:
    """Writes a number of an epoch; does nothing where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return lambda name, value, epoch: None
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=begun + 1)

    def write(name: str, value: float, epoch: int) -> None:
        writer.add_scalar(name, value, epoch)
        writer.flush()

    return write


def _short(value: float) -> str:
    return f"{value:.6g}"
