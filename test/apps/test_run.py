"""What a start that cannot succeed says, and when: values, files, devices and the surroundings of ROS."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synctva_ros.apps import checks, cli, run
from synctva_ros.config import NODES, find_param, plan, with_settings

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "synctva_ros/demo"


def planned(*settings):
    return with_settings(plan(media="a.wav"), [cli._setting(setting) for setting in settings])


@pytest.mark.parametrize(
    ("node", "name", "text", "value"),
    [
        ("transcriber", "language", "no", "no"),
        ("transcriber", "language", "", ""),
        ("transcriber", "language", "'no'", "no"),
        ("transcriber", "beam_size", "5", 5),
        ("utterance", "hangover", "1", 1.0),
        ("utterance", "channel", "0", "0"),
        ("media", "realtime", "no", False),
        ("media", "realtime", "True", True),
        ("faces", "vision", "off", False),
        ("media", "file", "1e5", "1e5"),
        ("emotion", "use_sim_time", "true", True),
    ],
)
def test_a_value_is_of_the_type_of_its_parameter(node, name, text, value):
    found = planned(f"{node}.{name}={text}")[node][name]
    assert (found, type(found)) == (value, type(value))


def test_a_microphone_with_a_number_for_a_name():
    nodes = with_settings(plan(microphone=""), [("microphone", "device", "0")])
    assert nodes["microphone"]["device"] == "0"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("utterance.hangover=99", "--set utterance.hangover: 99.0 is not from 0.1 to 3"),
        ("utterance.hangover=long", "--set utterance.hangover: 'long' is not of type float"),
        ("utterance.hangover=nan", "--set utterance.hangover: nan is not from 0.1 to 3"),
        ("transcriber.beam_size=1.5", "--set transcriber.beam_size: '1.5' is not of type int"),
        ("faces.vision=maybe", "--set faces.vision: 'maybe' is not of type bool"),
        ("emotion.device=tpu", "--set emotion.device: 'tpu' is not one of: 'auto', 'cpu', 'cuda'"),
        ("utterance.hangver=1", "the node 'utterance' has no parameter 'hangver'; did you mean 'hangover'?"),
        ("faces.zzz=1", "the node 'faces' has no parameter 'zzz'; there are: vision, face_detector"),
        ("utterence.hangover=1", "there is no node 'utterence'; did you mean 'utterance'?"),
        ("ear.hangover=1", "there is no node 'ear'; there are: microphone, camera"),
        ("camera.rate=5.0", "--set camera.rate: the node 'camera' is not part of this run"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(setting, sentence):
    with pytest.raises(ValueError, match=r"^--set ") as refused:
        planned(setting)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("node", NODES)
def test_each_default_is_read_from_its_own_text(node):
    for param in NODES[node].params():
        value = find_param(node, param.name).read(str(param.default))
        assert (value, type(value)) == (param.default, type(param.default))


#: Says so where any of these was loaded, which takes seconds.
LIGHT = """
import sys
from synctva_ros.apps import cli
status = cli.main(sys.argv[1:])
print(*{"torch", "rclpy", "transformers", "ctranslate2", "faster_whisper"} & set(sys.modules))
sys.exit(status)
"""


def lightly(*line, **environment):
    """Run the command, which loads nothing heavy; return its exit status and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *map(str, line)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )
    assert done.stdout == "\n"
    return done.returncode, done.stderr


@pytest.fixture
def small(tmp_path):
    """Files that only have to be there."""
    for name in ("a.wav", "b.wav", "t.csv"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.yaml").write_text("/**/emotion:\n  ros__parameters:\n    max_turns: 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("run --media no.wav", "no.wav: there is no such file (--media)"),
        ("run --media folder", "folder is a folder; give a file (--media)"),
        ("run --media a.wav --config no.yaml", "no.yaml: there is no such file (--config)"),
        ("run --media a.wav --config bad.yaml", "bad.yaml, line 3: parameter 'max_turns': 0 is not from 1 to 1000"),
        ("run --media a.wav --set utterance.hangover=9", "--set utterance.hangover: 9.0 is not from 0.1 to 3"),
        ("run --media a.wav --set utterance.stop_ratio=0.9", "utterance: stop_ratio (0.9) must not be above"),
        ("run --media a.wav --camera /dev/nothing", "camera '/dev/nothing': there is no such device or file"),
        ("run --media a.wav --camera 4711", "camera 4711: there is no /dev/video4711"),
        ("run --media a.wav --set emotion.weights=no", "no/model.json is missing (emotion.weights)"),
        ("run --media a.wav --set faces.face_detector=no.onnx", "there is no file no.onnx (faces.face_detector)"),
        ("run --mic nobody-has-this", "microphone"),
        ("recognize no.wav --modalities a", "no.wav: there is no such file"),
        ("recognize a.wav --modalities a --weights no", "no/model.json is missing (emotion.weights)"),
        (
            "recognize a.wav --modalities a --json no/r.jsonl",
            "no/r.jsonl: it cannot be written (No such file or directory)",
        ),
        ("recognize a.wav --modalities a --json folder", "folder: it cannot be written (Is a directory)"),
        ("recognize a.wav --transcripts no.csv", "no.csv: there is no such file (--transcripts)"),
        ("recognize folder --modalities a", "there are no media files or pictures in folder"),
        ("recognize a.wav --modalities a --set emotion.max_turn=1", "did you mean 'max_turns'?"),
        ("recognize a.wav --modalities a --set media.chunk=0.1", "the node 'media' is not part of this run"),
    ],
)
def test_what_cannot_start_says_so_before_anything_is_loaded(small, monkeypatch, line, sentence):
    monkeypatch.chdir(small)
    status, said = lightly(*line.split(), PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    assert status == 1
    assert said.startswith("synctva: ")
    assert said.count("\n") == 1
    assert sentence in said


class TestMicrophone:
    """What PortAudio lists, and what is asked for."""

    class SoundDevice:
        """As much of sounddevice as is asked."""

        PortAudioError = type("PortAudioError", (Exception,), {})

        def __init__(self, *names):
            self.devices = [{"index": i, "name": name, "max_input_channels": 2} for i, name in enumerate(names)]

        def query_devices(self, device=None, kind=None):
            if kind is None:
                return [*self.devices, {"index": 9, "name": "loudspeaker", "max_input_channels": 0}]
            found = [one for one in self.devices if device in (None, one["index"], one["name"])]
            if not found:
                raise ValueError(f"No input device matching {device!r}")
            return found[0]

    @pytest.mark.parametrize(
        ("names", "given", "sentence"),
        [
            ((), {}, "there is no microphone on this machine"),
            (("head", "desk"), {"device": "foot"}, "microphone 'foot' cannot be used"),
            (("head", "desk"), {"device": "foot"}, "there are: 0 head, 1 desk"),
            (("head",), {"channels": 4}, "'head' has 2 channel(s), not 4; set microphone.channels"),
        ],
    )
    def test_one_that_is_not_there_or_cannot_do_it(self, monkeypatch, names, given, sentence):
        monkeypatch.setattr("synctva_ros.sources.microphone.load_sounddevice", lambda: self.SoundDevice(*names))
        with pytest.raises(checks.Failure) as refused:
            checks.check_nodes({"microphone": given})
        assert sentence in str(refused.value)

    @pytest.mark.parametrize("device", ["", "0", "head"])
    def test_one_that_is_there(self, monkeypatch, device):
        monkeypatch.setattr("synctva_ros.sources.microphone.load_sounddevice", lambda: self.SoundDevice("head"))
        checks.check_nodes({"microphone": {"device": device}})

    def test_without_portaudio(self, monkeypatch):
        from synctva_ros.sources.microphone import SourceError

        def missing():
            raise SourceError("PortAudio library not found: run: sudo apt install libportaudio2")

        monkeypatch.setattr("synctva_ros.sources.microphone.load_sounddevice", missing)
        with pytest.raises(checks.Failure, match="apt install libportaudio2"):
            checks.check_nodes({"microphone": {}})


def test_a_camera_in_the_network_is_not_asked():
    checks.check_camera("rtsp://nobody.invalid/stream")


def test_the_weights_that_come_along_are_there():
    checks.check_nodes(plan() | {"emotion": {"weights": "synctva"}, "features": {"audio_weights": "voice_emotion"}})


def test_values_from_the_file_and_the_line_are_judged_together(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("utterance:\n  ros__parameters:\n    start_ratio: 0.5\n")
    media = str(tmp_path / "a.wav")
    (tmp_path / "a.wav").touch()
    nodes = with_settings(plan(media=media), [("utterance", "stop_ratio", "0.6")])
    run.check(nodes, None, "")
    with pytest.raises(checks.Failure, match=r"utterance: stop_ratio \(0.6\) must not be above start_ratio \(0.5\)"):
        run.check(nodes, config, "")
    run.check(nodes, config, "robot1")  # the file's node is another one
