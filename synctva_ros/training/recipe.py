"""What a training is made of: every setting once, for the dataclass, the YAML file and the command line.

One class for each kind of training. What all have in common, and the loop reads, is in :class:`Schedule`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from synctva_ros.config import NodeConfig, Value, param

RECIPES = Path(__file__).parent / "recipes"
#: Above any number that somebody would take.
_MANY = 1_000_000


def _count(default: int, meaning: str, low: int = 1) -> Any:
    return param(default, meaning, low=low, high=_MANY)


def _share(default: float, meaning: str) -> Any:
    return param(default, meaning, low=0.0, high=0.9999)


def _factor(default: float, meaning: str) -> Any:
    return param(default, meaning, low=0.0, high=100.0)


def _rate(default: float, meaning: str = "Largest learning rate of the one-cycle schedule") -> Any:
    return param(default, meaning, low=1e-7, high=1.0)


@dataclass(frozen=True)
class Schedule(NodeConfig):
    """What the loop needs to know of any training."""

    epochs: int = _count(10, "Passes over the training data")
    batch: int = _count(16, "Examples a step; dialogues, where dialogues are trained on")
    learning_rate: float = _rate(1e-3)
    weight_decay: float = _factor(0.05, "Of the optimizer")
    warm_up: float = _share(0.1, "Share of the steps in which the learning rate rises")
    clip: float = _factor(1.0, "Gradients longer than this are shortened to it; 0: none")
    averaging: float = _share(0.0, "Decay of the moving average of the weights, which is what is kept; 0: none")
    patience: int = _count(0, "Epochs without a better one on validation after which training ends; 0: never", low=0)


@dataclass(frozen=True)
class Recipe(Schedule):
    """A network on a corpus of dialogues; the defaults are those of Sync-TVA on a frozen text encoder."""

    model: str = param(
        "sync-tva",
        "sync-tva, or a reference: gru (recurrent over the joined vectors), mlp (late fusion, no dialogue)",
        choices=("sync-tva", "gru", "mlp"),
    )
    text_adapter: str = param("", "Text encoder: empty for the plain one, else a shipped adapter or a folder with one")
    text_vector: str = param(
        "layers", "The text encoder's whole vector, or the plain sentence vector", choices=("layers", "sentence")
    )
    hidden: int = _count(128, "Width inside the network")
    heads: int = _count(4, "Attention heads")
    layers: int = _count(1, "Rounds of graph attention, or recurrent layers")
    window: int = _count(10, "Turns that an utterance is connected to")
    without: str = param("", "Parts of Sync-TVA to leave out, with commas between them; see SyncTVAConfig")
    dropout: float = _share(0.5, "In the network")
    averaging: float = _share(0.98, "Decay of the moving average of the weights, which is what is kept; 0: none")
    label_smoothing: float = _share(0.0, "Share of the target that is spread over all classes")
    class_weight: float = _factor(0.25, "Each class counts by its rarity to this power: 0 all the same, 1 balanced")
    focal: float = _factor(0.0, "Gamma of the focal loss (arXiv 1708.02002); 0: cross-entropy")
    logit_adjustment: float = _factor(0.0, "Tau of arXiv 2007.07314; 0: none")
    vote_loss: float = _factor(0.3, "Weight of the loss of each modality's own vote beside that of the fused one")
    modality_dropout: float = _share(0.0, "How often a modality of an utterance that has others is left out")
    unknown_speakers: float = _share(0.0, "How often a dialogue's speakers are all unknown")

    @property
    def parts_left_out(self) -> tuple[str, ...]:
        """The names in ``without``."""
        return tuple(part.strip() for part in self.without.split(",") if part.strip())


@dataclass(frozen=True)
class RobotRecipe(Schedule):
    """The weights that come with the package: one causal network for any of words, voice and face."""

    epochs: int = _count(8, "Passes over the dialogues of MELD and EmoryNLP")
    batch: int = _count(24, "Dialogues a step; single utterances come on top")
    warm_up: float = _share(0.3, "Share of the steps in which the learning rate rises")
    text_adapter: str = param("text_feelings", "Adapter of the text encoder, a shipped one or a folder with one")
    audio_encoder: str = param(
        "voice", "Voice encoder: voice, or voice-states on a recogniser's layers", choices=("voice", "voice-states")
    )
    audio_weights: str = param("", "Its weights, shipped ones or a folder; empty for its own")
    face_weights: str = param("face_expression", "Face encoder, a shipped one or a folder with one")
    window: int = _count(5, "Turns that an utterance is connected to")
    dropout: float = _share(0.4, "In the network")
    class_weight: float = _factor(0.25, "Each class of the dialogues counts by its rarity to this power")


@dataclass(frozen=True)
class VoiceRecipe(Schedule):
    """The voice encoder: as many members as folds, each of which never hears the people of its fold."""

    corpora: str = param("ravdess", "Corpora of speech, with commas between them")
    folds: int = _count(5, "Into how many the speakers are divided", low=2)
    epochs: int = _count(50, "Passes over the clips for each member")
    batch: int = _count(32, "Clips a step; sounds that are no voice come on top")
    learning_rate: float = _rate(2e-3)
    warm_up: float = _share(0.15, "Share of the steps in which the learning rate rises")
    clip: float = _factor(2.0, "Gradients longer than this are shortened to it; 0: none")
    averaging: float = _share(0.995, "Decay of the moving average of the weights, which is what is kept; 0: none")
    prosody_epochs: int = _count(40, "Passes over the functionals for the prosody part of each member")


@dataclass(frozen=True)
class VoiceStatesRecipe(Schedule):
    """The voice encoder on a recogniser's layers: a member without each corpus, and one without each fold of people."""

    corpora: str = param("ravdess,emovo,ased,nemo", "Corpora of speech, with commas between them")
    folds: int = _count(5, "Into how many the speakers are divided", low=2)
    copies: int = _count(3, "Distorted copies of each clip", low=0)
    clean: float = _share(0.1, "How often a clip is as it was recorded, and no copy")
    strangers: float = _share(0.4, "How often nothing is known of the person")
    epochs: int = _count(8, "Passes over the clips for each member")
    batch: int = _count(256, "Clips a step")
    learning_rate: float = _rate(3e-3)
    weight_decay: float = _factor(0.1, "Of the optimizer")


@dataclass(frozen=True)
class FaceRecipe(Schedule):
    """The face encoder."""

    corpus: str = param("fer2013", "Corpus of faces: fer2013 with its own labels, ferplus with the votes of ten people")
    epochs: int = _count(40, "Passes over the images")
    batch: int = _count(128, "Images a step")
    learning_rate: float = _rate(0.12)
    weight_decay: float = _factor(5e-4, "Of the optimizer")
    warm_up: float = _share(0.15, "Share of the steps in which the learning rate rises")
    clip: float = _factor(0.0, "Gradients longer than this are shortened to it; 0: none")
    averaging: float = _share(0.999, "Decay of the moving average of the weights, which is what is kept; 0: none")


@dataclass(frozen=True)
class TextRecipe(Schedule):
    """The text encoder's adapter: first single utterances of DailyDialog, then dialogues of MELD."""

    epochs: int = _count(4, "Passes over MELD")
    learning_rate: float = _rate(1e-3, "Largest learning rate of what stands on the encoder")
    encoder_rate: float = _rate(1e-4, "Largest learning rate of the encoder")
    averaging: float = _share(0.98, "Decay of the moving average of the weights, which is what is kept; 0: none")
    utterance_epochs: int = _count(2, "Passes over DailyDialog")
    utterances: int = _count(64, "Utterances of DailyDialog a step")
    soup: int = _count(3, "Trainings on MELD whose weights are averaged (arXiv 2203.05482)")
    rank: int = _count(96, "Of the low-rank difference that is kept")


@dataclass(frozen=True)
class EarsRecipe(Schedule):
    """What both networks of the ears are trained with: recordings of people who speak alone."""

    corpora: str = param("ravdess,ased,nemo", "Corpora of speech, with commas between them")
    held_out: str = param(
        "ravdess/17,ravdess/18,ravdess/19,ravdess/20,nemo/TP0,nemo/WR0,ased/60,ased/61,ased/62,ased/63,ased/64,ased/65",
        "People (corpus/name) or corpora that are heard only in validation, with commas between them",
    )
    steps: int = _count(150, "Steps between two looks at those who are held out")
    learning_rate: float = _rate(2e-3)
    weight_decay: float = _factor(0.01, "Of the optimizer")


@dataclass(frozen=True)
class SegmentationRecipe(EarsRecipe):
    """The network that finds turns: rooms without end, made of recordings of single voices."""

    synthetic: int = param(16, "Synthetic voices that talk along; they need eSpeak NG", low=0, high=40)
    epochs: int = _count(20, "Times that the validation rooms are looked at")
    batch: int = _count(8, "Rooms a step, each made anew")
    seconds: float = param(20.0, "Length of a room", "s", low=5.0, high=120.0)
    averaging: float = _share(0.998, "Decay of the moving average of the weights, which is what is kept; 0: none")
    voice_loss: float = _factor(0.25, "Weight of telling the voices apart, beside finding the turns")


@dataclass(frozen=True)
class VoiceprintRecipe(EarsRecipe):
    """The network that tells voices apart."""

    synthetic: int = param(32, "Synthetic voices besides; they need eSpeak NG", low=0, high=40)
    epochs: int = _count(12, "Times that the people who are held out are looked at")
    batch: int = _count(64, "Pieces of recordings a step")
    averaging: float = _share(0.995, "Decay of the moving average of the weights, which is what is kept; 0: none")
    teacher_loss: float = _factor(3.0, "Weight of the distance from what CAM++ says")
    voice_loss: float = _factor(0.3, "Weight of knowing the people by name")


#: What a recipe can be for; the first is meant where a file does not say.
KINDS: dict[str, type[Schedule]] = {
    "dialogue": Recipe,
    "robot": RobotRecipe,
    "voice": VoiceRecipe,
    "voice-states": VoiceStatesRecipe,
    "face": FaceRecipe,
    "text": TextRecipe,
    "segmentation": SegmentationRecipe,
    "voiceprint": VoiceprintRecipe,
}


def read_recipe(source: str | Path, changes: Mapping[str, str] | None = None) -> Schedule:
    """Read a YAML file, or one of the recipes in ``synctva_ros/training/recipes`` by its name (``meld``).

    Args:
        source: the file or the name.
        changes: settings as somebody typed them, which win over the file.

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
    kind = settings.pop("task", next(iter(KINDS)))
    if kind not in KINDS:
        raise ValueError(f"{path}: task is {kind!r}: give one of {', '.join(KINDS)}")
    try:
        return make_recipe(kind, settings, changes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def make_recipe(kind: str, settings: Mapping[Any, Any], changes: Mapping[str, str] | None = None) -> Schedule:
    """A recipe of this kind with these settings; see :func:`read_recipe`."""
    known = {each.name: each for each in KINDS[kind].params()}
    chosen: dict[str, Value] = {}
    for name, value in settings.items():
        _check_name(name, known)
        # YAML takes 1e-3 for a text and 1 for a whole number.
        is_number = isinstance(known[name].default, float) and isinstance(value, int | str) and value is not True
        chosen[name] = known[name].read(str(value)) if is_number and value is not False else value
    for name, text in (changes or {}).items():
        _check_name(name, known)
        chosen[name] = known[name].read(text)
    recipe: Any = KINDS[kind]
    made: Schedule = recipe(**chosen)
    return made


def _check_name(name: object, known: Mapping[str, Any]) -> None:
    if name not in known:
        raise ValueError(f"unknown setting {name!r}; the settings are {', '.join(sorted(known))}")


def as_settings(recipe: Schedule) -> dict[str, Value]:
    """Name and value of each setting."""
    return {each.name: getattr(recipe, each.name) for each in fields(recipe)}
