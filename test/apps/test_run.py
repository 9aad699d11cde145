"""What a start that cannot succeed says, and when: values, files, devices and the surroundings of ROS."""

import json
import os
import shutil
import subprocess
import sys
import time
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
    for name in ("a.wav", "a.jpg", "t.csv"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    for folder, description in {"damaged": "{}", "foreign": "no"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.json").write_text(description)
        (tmp_path / folder / "model.safetensors").touch()
    shutil.copytree(ROOT / "synctva_ros/weights/voice_emotion", tmp_path / "old")
    (tmp_path / "old/model.json").write_text('{"format_version": 2}')
    (tmp_path / "bad.yaml").write_text("/**/emotion:\n  ros__parameters:\n    max_turns: 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("run --media no.wav", "no.wav: there is no such file (--media)"),
        ("run --media folder", "folder is a folder; give a file (--media)"),
        ("run --media a.wav", "a.wav: cannot be read as a media file ("),
        ("run --media a.wav --set emotion.weights=damaged", "damaged/model.safetensors cannot be read ("),
        ("run --media a.wav --set faces.face_weights=foreign", "foreign/model.json cannot be read ("),
        (
            "run --media a.wav --set faces.face_weights=old",
            "old/model.json has the format version 2, but 3 is needed (",
        ),
        (
            "run --media a.wav --set features.audio_weights=synctva",
            "has the architecture 'sync-tva', but 'voice-residual' is needed (features.audio_weights)",
        ),
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
        ("run --media a.wav --namespace 1x", "'1x' is no namespace: give letters, digits and _"),
        ("run --media a.wav --set features.text_encoder=nix", "features.text_encoder: there is no encoder 'nix'"),
        ("run --media a.wav --set faces.face_encoder=nix", "faces.face_encoder: there is no encoder 'nix'"),
        (
            "run --media a.wav --set utterance.speaker_encoder=nix",
            "utterance.speaker_encoder: there is no encoder 'nix'",
        ),
        (
            "run --media a.wav --set utterance.speaker_weights=no",
            "no/model.json is missing (utterance.speaker_weights)",
        ),
        (
            "run --media a.wav --set utterance.segmenter_weights=no",
            "no/model.json is missing (utterance.segmenter_weights)",
        ),
        ("run --media a.wav --set features.text_weights=./no", "there is no folder ./no (features.text_weights)"),
        ("recognize a.wav --modalities a", "a.wav"),
        ("recognize a.jpg --modalities v", "a.jpg"),
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
    nodes = with_settings(plan(media=str(DEMO / "dialogue.flac")), [("utterance", "stop_ratio", "0.6")])
    run.check(nodes, None, "")
    with pytest.raises(checks.Failure, match=r"utterance: stop_ratio \(0.6\) must not be above start_ratio \(0.5\)"):
        run.check(nodes, config, "")
    run.check(nodes, config, "robot1")  # the file's node is another one


class TestOthers:
    """Two graphs on one machine."""

    @pytest.fixture(autouse=True)
    def ros(self):
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")

    @pytest.mark.parametrize(
        ("line", "given", "expected"),
        [
            (["--media", str(DEMO / "dialogue.flac")], None, "OFF"),
            (["--media", str(DEMO / "dialogue.flac")], "SUBNET", "SUBNET"),
            (["--mic"], None, "LOCALHOST"),
            (["--mic"], "SUBNET", "SUBNET"),
        ],
    )
    def test_a_file_is_alone_and_a_microphone_on_this_machine_unless_told_otherwise(
        self, monkeypatch, line, given, expected
    ):
        from synctva_ros.ros import graph

        found = []

        class Seen:
            """In the graph's place."""

            finished = True

            def __init__(self, nodes, config, on_emotion, namespace):
                found.append(os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"])

            def start(self):
                """Nothing."""

            stop = start

        monkeypatch.setattr(graph, "Graph", Seen)
        monkeypatch.setattr(run, "check_nodes", lambda nodes: None)
        if given is None:
            monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE")
        else:
            monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", given)
        assert cli.main(["run", *line]) == 0
        assert found == [expected]

    def test_two_files_at_once_do_not_hear_each_other(self):
        script = json.loads((DEMO / "dialogue.json").read_text())["turns"]
        line = [*("run", "--media", str(DEMO / "dialogue.flac"), "--whisper", "demo", "--fast", "--json")]
        environment = {name: value for name, value in os.environ.items() if name != "ROS_AUTOMATIC_DISCOVERY_RANGE"}
        both = [
            subprocess.Popen(
                [sys.executable, "-m", "synctva_ros.apps.cli", *line],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
            for _ in range(2)
        ]
        for one in both:
            answers = [json.loads(line) for line in one.communicate(timeout=300)[0].splitlines()]
            assert one.returncode == 0
            assert [answer["text"] for answer in answers] == [turn["text"] for turn in script]
            assert len({answer["utterance_id"].rpartition("_")[0] for answer in answers}) == 1

    @pytest.fixture
    def stranger(self):
        """Creates nodes in a context of their own."""
        import rclpy

        context = rclpy.Context()
        rclpy.init(context=context)
        nodes = []

        def create(name, namespace=""):
            nodes.append(rclpy.create_node(name, namespace=namespace, context=context))
            return nodes[-1]

        yield create
        for node in nodes:
            node.destroy_node()
        context.shutdown()

    @pytest.mark.parametrize("namespace", ["", "robot1"])
    def test_a_graph_of_the_same_names_is_noticed_before_it_has_nodes(self, monkeypatch, stranger, namespace):
        from synctva_ros.ros import environment, graph

        monkeypatch.setattr(environment, "DISCOVERY", 60.0)  # however busy the machine is
        monkeypatch.setattr(graph, "create_node", None)
        stranger("emotion", namespace)
        with pytest.raises(graph.GraphError) as refused:
            graph.Graph(plan(), None, lambda emotion: None, namespace)
        name = f"/{namespace}/emotion" if namespace else "/emotion"
        assert str(refused.value).startswith(f"a node {name} is running already in the ROS domain ")
        for remedy in ("--namespace NAME", "ROS_DOMAIN_ID"):
            assert remedy in str(refused.value)

    OLDER, OWN, YOUNGER = (f"_synctva_graph_{time:019d}_1" for time in (1, 2, 3))

    @pytest.mark.parametrize(
        ("theirs", "own", "is_up", "begins"),
        [
            ([], 0, False, ""),
            ([("emotion", "robot1")], 0, False, "a node /robot1/emotion is running already"),
            ([("emotion", "robot2")], 0, False, ""),
            ([("emotion", "robot1/left")], 0, False, ""),
            ([("lidar", "robot1")], 0, False, ""),
            ([(OLDER, "robot1")], 0, False, "a graph of these nodes is starting already"),
            ([(OLDER, "robot2")], 0, False, ""),
            ([(YOUNGER, "robot1")], 0, False, ""),
            ([(YOUNGER, "robot1"), ("emotion", "robot1")], 0, False, "a node /robot1/emotion is running already"),
            ([], 1, False, ""),
            ([("emotion", "robot1")], 1, False, "a node /robot1/emotion is running already"),
            ([("emotion", "robot1")], 1, True, ""),  # somebody adds one
            ([(OLDER, "robot1")], 1, False, ""),  # it will give way
            ([(OLDER, "robot1"), ("emotion", "robot1")], 1, False, "a node /robot1/emotion is running already"),
            ([(OLDER, "robot1"), ("emotion", "robot1")], 1, True, "a node /robot1/emotion is running already"),
            ([(YOUNGER, "robot1"), ("emotion", "robot1")], 1, False, ""),
            ([(YOUNGER, "robot1"), ("emotion", "robot1")], 1, True, ""),
        ],
    )
    def test_who_gives_way(self, stranger, theirs, own, is_up, begins):
        from synctva_ros.ros import environment

        graph = stranger(self.OWN, "robot1")
        for name, namespace in [("emotion", "robot1")] * own + theirs:
            stranger(name, namespace)
        found = environment.others(graph, ["emotion"], "--namespace NAME", own, is_up=is_up)
        assert found.startswith(begins)
        assert bool(found) == bool(begins)

    def test_one_that_is_found_late_has_been_there_before(self, monkeypatch, stranger):
        from synctva_ros.ros import environment, graph

        monkeypatch.setattr(environment, "DISCOVERY", 0.0)  # as on a machine too busy to find anything
        made = graph.Graph({"utterance": {}}, None, lambda emotion: None)
        try:
            made.start()
            assert not made.finished
            stranger(self.OLDER)
            stranger("utterance")
            deadline = time.monotonic() + 60.0
            while time.monotonic() < deadline and not environment.others(
                made._listener, ["utterance"], "", 1, is_up=True
            ):
                time.sleep(0.05)
            with pytest.raises(graph.GraphError, match="a node /utterance is running already"):
                _ = made.finished
        finally:
            made.stop()

    #: Waits to be told, and then starts the nodes of a graph, without models.
    GRAPH = """
import sys, time
from synctva_ros.config import plan
from synctva_ros.ros import environment
from synctva_ros.ros.graph import Graph, GraphError
environment.DISCOVERY = 5.0
print("ready", flush=True)
sys.stdin.readline()
try:
    graph = Graph(plan(), None, lambda emotion: None)
except GraphError as error:
    sys.exit(str(error))
print("up", flush=True)
sys.stdin.readline()
graph.stop()
"""

    @pytest.mark.parametrize("number", [2, 3])
    def test_of_graphs_that_start_at_once_exactly_one_goes_on(self, number):
        graphs = [
            subprocess.Popen(
                [sys.executable, "-c", self.GRAPH],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            )
            for _ in range(number)
        ]
        assert [one.stdout.readline() for one in graphs] == ["ready\n"] * number
        for one in graphs:
            one.stdin.write("\n")
            one.stdin.flush()
        said = sorted(one.stdout.readline() for one in graphs)
        ended = [one.communicate("\n", timeout=120)[1] for one in graphs]
        assert said == [""] * (number - 1) + ["up\n"]
        assert sorted(one.returncode for one in graphs) == [0] + [1] * (number - 1)
        assert sum("already in the ROS domain" in errors for errors in ended) == number - 1


class TestEnvironment:
    """What ROS itself would say badly, or on standard output."""

    @pytest.fixture(autouse=True)
    def ros(self):
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")

    def said(self, *command, **environment):
        """What a command says when it is refused; nothing else may be said."""
        given = {name: value for name, value in (os.environ | environment).items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-m", *command], capture_output=True, text=True, timeout=120, env=given, check=False
        )
        assert done.returncode == 1
        assert done.stdout == ""
        assert "rcl" not in done.stderr
        (sentence,) = done.stderr.splitlines()
        return sentence

    COMMANDS = (
        ("synctva_ros.apps.cli", "run", "--media", str(DEMO / "dialogue.flac")),
        ("synctva_ros.ros", "emotion"),
    )

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("domain", ["300", "-1", "one", "1.5"])
    def test_a_domain_that_is_none(self, command, domain):
        assert f"ROS_DOMAIN_ID is '{domain}': set it to a whole number" in self.said(*command, ROS_DOMAIN_ID=domain)

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("home", [None, "", "/proc/nobody", "/dev/null"])
    def test_no_place_for_the_logs(self, command, home):
        sentence = self.said(*command, HOME=home, ROS_LOG_DIR=None, ROS_HOME=None)
        assert "set ROS_LOG_DIR to a folder that can be written" in sentence

    def test_what_only_a_node_can_tell_is_said_once(self):
        line = ("run", "--media", DEMO / "dialogue.flac", "--set", "transcriber.compute_type=float16")
        done = subprocess.run(
            [sys.executable, "-m", "synctva_ros.apps.cli", *map(str, line), "--whisper", "demo", "--device", "cpu"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        begun, sentence = done.stderr.splitlines()
        assert begun.startswith("Loading the models")
        assert sentence.startswith("synctva: transcriber: parameter 'compute_type': 'float16' is not supported here")

    def test_a_place_that_is_given(self, tmp_path, monkeypatch):
        from synctva_ros.ros.environment import check_environment

        monkeypatch.delenv("HOME")
        monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "new/logs"))
        check_environment()
        monkeypatch.delenv("ROS_LOG_DIR")
        monkeypatch.setenv("ROS_HOME", str(tmp_path / "ros"))
        check_environment()
        monkeypatch.setenv("ROS_LOG_DIR", "/dev/null/logs")
        with pytest.raises(ValueError, match="ROS cannot write its logs to /dev/null/logs"):
            check_environment()
