"""The command line, as someone types it: in a process of its own, judged by its output and exit status."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import synctva_ros
from synctva_ros.apps import cli, run
from synctva_ros.config import DEMO_WHISPER, plan
from synctva_ros.plural import counted

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "synctva_ros/demo"
SCRIPT = json.loads((DEMO / "dialogue.json").read_text())["turns"]


def synctva(*arguments, timeout=180):
    return subprocess.run(
        [sys.executable, "-m", "synctva_ros.apps.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def only_sentence(result):
    """The one line of standard error that is the command's own."""
    own = [line for line in result.stderr.splitlines() if line.startswith("synctva: ")]
    assert len(own) == 1, result.stderr
    return own[0]


def test_help_needs_no_ros_and_names_the_options():
    result = synctva("run", "--help")
    assert result.returncode == 0
    for option in ("--media", "--mic", "--camera", "--config", "--json", "--fast", "--whisper", "--set"):
        assert option in result.stdout


def test_the_version_is_told():
    result = synctva("--version")
    assert (result.returncode, result.stdout) == (0, f"synctva {synctva_ros.__version__}\n")


def test_each_command_has_an_example_that_it_understands(capsys):
    (commands,) = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        assert command.epilog.startswith(f"Example: synctva {name}"), name
        example = command.epilog.removeprefix("Example: synctva ").split()
        assert cli.parser().parse_args(example).command == name


@pytest.mark.parametrize(("number", "said"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_numbers_have_their_plurals(number, said):
    assert counted(number, "file") == said


def test_recognize_and_score_work_with_what_is_shipped(tmp_path):
    """The figures themselves say little here: the demo's sentences all count as one file."""
    pytest.importorskip("sklearn", reason="the packages for training are not installed")
    recognised = tmp_path / "r.jsonl"
    result = synctva("recognize", DEMO, "--whisper", "demo", "--json", recognised)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in recognised.read_text().splitlines()]
    assert [line["text"] for line in lines] == [turn["text"] for turn in SCRIPT]
    assert result.stdout.count("dialogue.flac") == len(SCRIPT), "the table, beside the file"
    loading, summary = result.stderr.splitlines()
    assert loading.startswith("Loading the models, which takes")
    assert summary.startswith(f"{len(SCRIPT)} utterances in 1 file; ")
    assert {line["file"] for line in lines} == {str(DEMO / "dialogue.flac")}
    (tmp_path / "labels.csv").write_text("file,emotion\ndialogue.flac,joy\nmissing.flac,joy\n")
    result = synctva("score", recognised, "--labels", tmp_path / "labels.csv")
    assert result.returncode == 0, result.stderr
    assert "2 files, 1 of them without an answer" in result.stdout


def test_a_setting_has_a_node_a_parameter_and_a_value():
    assert cli._setting("utterance.hangover=0.3") == ("utterance", "hangover", "0.3")
    assert cli._setting("transcriber.model=a=b.c") == ("transcriber", "model", "a=b.c")
    assert cli._setting("transcriber.model=") == ("transcriber", "model", "")
    for wrong in ("hangover=0.3", "utterance.hangover", ".=1", "="):
        with pytest.raises(argparse.ArgumentTypeError, match=r"NODE\.PARAMETER=VALUE"):
            cli._setting(wrong)


def planned(*line):
    """Which nodes a command line starts, with which parameters; nothing is started."""
    return run.planned(cli.parser().parse_args(["run", *line]))


@pytest.mark.parametrize(
    ("line", "nodes"),
    [
        ("--media a.wav", {"media"}),
        ("--mic", {"microphone"}),
        ("--mic 3 --camera", {"microphone", "camera"}),
        ("--media a.wav --camera 1", {"media", "camera"}),
    ],
)
def test_options_choose_the_sources(line, nodes):
    found = planned(*line.split())
    assert set(found) == {"utterance", "transcriber", "faces", "features", "emotion"} | nodes
    if line == "--media a.wav --camera 1":
        assert found["media"]["video_rate"] == 0.0
        assert found["camera"] == {"device": "1"}
    if line == "--mic 3 --camera":
        assert found["microphone"] == {"device": "3"}
        assert found["camera"] == {"device": "0"}


def test_when_nobody_waits_for_an_answer_nothing_is_done_ahead_of_it():
    line = ["--media", "talk.mp4"]
    assert planned(*line)["utterance"] == {}
    assert planned(*line)["media"]["realtime"] is True
    fast = planned(*line, "--fast")
    assert fast["utterance"] == {"speculate": False, "provisional_interval": 0.0}
    assert fast["media"]["realtime"] is False


def test_options_are_parameters_and_set_wins_over_them():
    line = ["--media", "a.wav", "--whisper", "base.en"]
    assert planned(*line)["transcriber"] == {"model": "base.en"}
    assert planned(*line, "--set", "transcriber.model=tiny.en")["transcriber"] == {"model": "tiny.en"}
    assert planned("--mic", "--whisper", "demo")["transcriber"] == {"model": str(DEMO_WHISPER)}
    both = planned(*line, "--device", "cpu", "--set", "emotion.device=auto")
    assert both["transcriber"]["device"] == "cpu"
    assert both["emotion"] == {"device": "auto"}


def test_the_plan_is_that_of_the_launch_file():
    given = {"media": "a.wav", "camera": "1", "whisper": "tiny.en", "device": "cpu", "fast": True}
    line = ["--media", "a.wav", "--camera", "1", "--whisper", "tiny.en", "--device", "cpu", "--fast"]
    assert planned(*line) == plan(**given)


def test_a_source_is_required_and_only_one():
    assert synctva("run").returncode == 2
    assert synctva("run", "--mic", "--media", "x.wav").returncode == 2


class TestWithRos:
    """The graph itself."""

    @pytest.fixture(autouse=True)
    def ros(self):
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")

    def test_json_holds_every_field_and_nothing_else_is_on_standard_output(self):
        from synctva_ros import msg

        config = ROOT / "config/perception.yaml"
        result = synctva(
            *("run", "--media", DEMO / "dialogue.flac", "--whisper", "demo", "--json", "--fast", "--config", config)
        )
        assert result.returncode == 0, result.stderr
        emotions = [json.loads(line) for line in result.stdout.splitlines()]
        assert [emotion["text"] for emotion in emotions] == [turn["text"] for turn in SCRIPT]
        for emotion in emotions:
            assert list(emotion) == list(msg.Emotion.get_fields_and_field_types())
            assert emotion["status"] in ("FINAL", "UNCERTAIN")
            assert emotion["valence"] is None

    def test_the_live_view_shows_words_and_a_bar_per_class(self):
        result = synctva("run", "--media", DEMO / "dialogue.flac", "--whisper", "demo", "--fast")
        assert result.returncode == 0, result.stderr
        for turn in SCRIPT:
            assert turn["text"].split(",")[0][:20] in result.stdout
        assert result.stdout.count("surprise") >= len(SCRIPT)

    @pytest.mark.parametrize("name", ["missing.wav", "empty.wav", "text.mp4", "folder"])
    def test_nothing_to_play_is_one_sentence_and_a_failure(self, tmp_path, name):
        path = tmp_path / name
        if name == "empty.wav":
            path.write_bytes(b"")
        elif name == "text.mp4":
            path.write_text("this is no film\n" * 100)
        elif name == "folder":
            path.mkdir()
        result = synctva("run", "--media", path, "--json")
        assert result.returncode == 1
        assert result.stdout == ""
        assert name in only_sentence(result)

    def test_silence_is_played_and_gives_nothing(self, tmp_path):
        import wave

        with wave.open(str(tmp_path / "silence.wav"), "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(44100)
            file.writeframes(bytes(44100 * 4 * 2))
        result = synctva("run", "--media", tmp_path / "silence.wav", "--json", "--fast")
        assert result.returncode == 0, result.stderr
        assert result.stdout == ""

    def test_bad_settings_are_named(self, tmp_path):
        media = ("run", "--json", "--media", DEMO / "dialogue.flac")
        for line, part in (
            (("--config", tmp_path / "no.yaml"), "no.yaml"),
            (("--set", "ear.hangover=1"), "ear"),
            (("--set", "utterance.hangover=99.0"), "hangover"),
            (("--set", "camera.rate=5.0"), "the node 'camera' is not part of this run"),
        ):
            result = synctva(*media, *line)
            assert result.returncode == 1
            assert part in only_sentence(result)

    def test_interrupted_it_ends_at_once_and_cleanly(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "synctva_ros.apps.cli", "run", "--media", str(DEMO / "dialogue.flac"), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for line in process.stderr:
            if "weights" in line:
                break
        time.sleep(5.0)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in errors

    def test_demo_tells_the_result(self):
        result = synctva("demo", "--fast")
        assert result.returncode == 0, result.stderr
        assert f"{len(SCRIPT)} of {len(SCRIPT)} turns answered" in result.stdout
