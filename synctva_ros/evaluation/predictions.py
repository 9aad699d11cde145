"""What was said of each utterance or file, beside the truth: what ``--json`` writes, and ``compare`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synctva_ros.evaluation.metrics import IntArray, Scores, score
from synctva_ros.events import FloatArray
from synctva_ros.sources.files import shown, writing

NO_ANSWER = "no answer"
KEY = "predictions"
#: Where ``synctva train`` writes what its networks say of the validation split, in the run folder.
VALIDATION = "valid.json"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What was said of n items, by one network for each seed.

    Attributes:
        names: the C classes.
        items: what each is called: that of another run with the same name is the same item.
        groups: which dialogue, person or file each is of.
        unit: what a group is, such as "dialogue".
        labels: the true classes ``[n]``.
        probabilities: ``[n, C]`` for each seed; a row that is all NaN: nothing was said.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    groups: tuple[str, ...]
    unit: str
    labels: IntArray
    probabilities: dict[int, FloatArray]

    @property
    def silent(self) -> bool:
        """Whether of some items nothing was said."""
        return any(np.isnan(of_seed).any() for of_seed in self.probabilities.values())

    def scores(self, silence: bool = False) -> dict[int, Scores]:
        """The figures of each seed.

        Args:
            silence: No answer is an answer too, one that is never right; calibration error and log loss mean nothing
                then.

        Raises:
            ValueError: as in ``metrics.score``.
        """
        found = {}
        for seed, probabilities in self.probabilities.items():
            names = self.names
            if silence:
                nothing = np.isnan(probabilities).any(axis=1, keepdims=True)
                probabilities = np.concatenate([np.where(nothing, 0, probabilities), nothing], axis=1, dtype=np.float32)
                names = (*names, NO_ANSWER)
            found[seed] = score(probabilities, self.labels, names, groups=self.groups, unit=self.unit)
        return found


def write_figures(figures: Mapping[str, Any], predictions: Predictions, path: Path) -> None:
    """Write figures as JSON, and what they are of, a line for each item.

    Raises:
        OSError: it cannot be written; the sentence names it.
    """
    said = np.stack(list(predictions.probabilities.values()), axis=1).astype(np.float64).round(6)
    lines = ",\n".join(
        "      "
        + json.dumps(
            {
                "item": item,
                "group": group,
                "label": predictions.names[label],
                "probabilities": None if np.isnan(row).any() else row.tolist(),
            }
        )
        for item, group, label, row in zip(predictions.items, predictions.groups, predictions.labels, said, strict=True)
    )
    about = {"labels": predictions.names, "unit": predictions.unit, "seeds": list(predictions.probabilities)}
    text = json.dumps({**figures, KEY: about}, indent=2).removesuffix("\n  }\n}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{text},\n    "items": [\n{lines}\n    ]\n  }}\n}}\n', encoding="utf-8")


def read_predictions(path: Path) -> Predictions:
    """Read what ``write_figures`` wrote, of a run folder that of the validation split.

    Raises:
        ValueError: it is not there, or not such a file; the sentence says what to give.
    """
    if path.is_dir():
        if not (path / VALIDATION).is_file():
            raise ValueError(
                f"{shown(path)} has no {VALIDATION}, which synctva train writes in the end: give such a folder, or the "
                f"file that synctva evaluate --run {shown(path)} --json FILE writes"
            )
        path = path / VALIDATION
    wanted = "give what synctva evaluate --json or synctva score --json wrote"
    try:
        written = json.loads(path.read_bytes().decode("utf-8"))[KEY]
        names, seeds, rows = tuple(written["labels"]), list(map(int, written["seeds"])), written["items"]
        nothing = [[np.nan] * len(names)] * len(seeds)
        said = np.array([row["probabilities"] or nothing for row in rows], np.float32)
        if said.shape != (len(rows), len(seeds), len(names)) or not seeds or not rows:
            raise ValueError("its probabilities do not fit its classes and seeds")
        return Predictions(
            names,
            tuple(str(row["item"]) for row in rows),
            tuple(str(row["group"]) for row in rows),
            str(written["unit"]),
            np.array([names.index(row["label"]) for row in rows]),
            {seed: said[:, number] for number, seed in enumerate(seeds)},
        )
    except OSError as error:
        raise ValueError(f"{shown(path)}: it cannot be read ({error.strerror}); {wanted}") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{shown(path)}: there are no predictions in it ({reason}); {wanted}") from error
