"""What a training run is made of: the network, the loss and the schedule, as a small YAML file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from synctva_ros.network.synctva import PARTS

Model = Literal["sync-tva", "gru", "mlp"]
RECIPES = Path(__file__).parent / "recipes"
#: What a setting of a type may be, and how to say it. YAML takes 1e-3 for a text.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number such as 0.001"),
    str: ((str,), "a text"),
}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; the defaults are those of Sync-TVA on a frozen text encoder.

    Attributes:
        model: "sync-tva", or a reference to compare with: "gru" (recurrent network over the joined vectors) or "mlp"
            (late fusion, without the dialogue).
        text_adapter: empty for the text encoder as it is; the name of a shipped adapter (a folder in
            ``synctva_ros/weights``) or a folder with one.
        text_vector: "layers" for the encoder's whole vector, "sentence" for its last third, the plain sentence vector.
        hidden: width d inside the network.
        heads: attention heads.
        layers: rounds of graph attention, or recurrent layers.
        window: turns that an utterance is connected to.
        without: parts of Sync-TVA to leave out, see ``SyncTVAConfig``.
        dropout: in the network.
        epochs: passes over the training split.
        batch: dialogues a step.
        learning_rate: largest one of the one-cycle schedule (Smith and Topin 2018).
        weight_decay: of AdamW.
        averaging: decay of the moving average of the weights, which is what is evaluated and kept; 0: none.
        label_smoothing: share of the target spread over all classes.
        class_weight: each class counts by its rarity to this power: 0 all the same, 1 balanced.
        focal: gamma of the focal loss (https://arxiv.org/abs/1708.02002); 0: cross-entropy.
        logit_adjustment: tau of https://arxiv.org/abs/2007.07314; 0: none.
        vote_loss: weight of the loss of each modality's own vote beside that of the fused one.
        modality_dropout: how often a modality of an utterance that has others is left out in training.
        unknown_speakers: how often a dialogue's speakers are all unknown in training.
    """

    model: Model = "sync-tva"
    text_adapter: str = ""
    text_vector: Literal["layers", "sentence"] = "layers"
    hidden: int = 128
    heads: int = 4
    layers: int = 1
    window: int = 10
    without: tuple[str, ...] = ()
    dropout: float = 0.5
    epochs: int = 10
    batch: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    averaging: float = 0.98
    label_smoothing: float = 0.0
    class_weight: float = 0.25
    focal: float = 0.0
    logit_adjustment: float = 0.0
    vote_loss: float = 0.3
    modality_dropout: float = 0.0
    unknown_speakers: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values of another type or out of range.

        Raises:
            ValueError: a setting is of another type, or out of its range.
        """
        if not isinstance(self.without, (list, tuple)) or not all(part in PARTS for part in self.without):
            raise ValueError(f"without is {self.without!r}: give a list of some of {', '.join(PARTS)}")
        object.__setattr__(self, "without", tuple(self.without))
        hints = get_type_hints(Recipe)
        for field in fields(self):
            value, kind = getattr(self, field.name), hints[field.name]
            if choices := get_args(kind) if isinstance(get_args(kind)[:1] and get_args(kind)[0], str) else ():
                if value not in choices:
                    raise ValueError(f"{field.name} is {value!r}: give one of {', '.join(choices)}")
            elif kind in _KINDS:
                types, what = _KINDS[kind]
                # For Python a bool is a number.
                if not isinstance(value, types) or isinstance(value, bool):
                    raise ValueError(f"{field.name} is {value!r}: give {what}")
        for name in ("hidden", "heads", "layers", "window", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for name in ("dropout", "averaging", "label_smoothing", "modality_dropout", "unknown_speakers"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number from 0 to below 1")
        for name in ("weight_decay", "class_weight", "focal", "logit_adjustment", "vote_loss"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        if not 0.0 < self.learning_rate < 1.0:
            raise ValueError(f"learning_rate is {self.learning_rate}: give a number between 0 and 1")


def read_recipe(source: str | Path) -> Recipe:
    """Read a YAML file, or one of the recipes in ``synctva_ros/training/recipes`` by its name (``meld``).

    Raises:
        ValueError: there is no such recipe, it is no YAML mapping, or a setting is unknown or out of range.
    """
    import yaml

    path = Path(source)
    if not path.is_file():
        path = RECIPES / f"{source}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
        raise ValueError(f"{source}: there is no such recipe file; give one, or the name of a shipped one: {names}")
    try:
        settings: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: settings are wanted, one 'name: value' a line")
    known = {field.name for field in fields(Recipe)}
    for name in settings:
        if name not in known:
            raise ValueError(f"{path}: unknown setting {name!r}; the settings are {', '.join(sorted(known))}")
    try:
        return Recipe(**settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
