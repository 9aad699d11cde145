"""How a command ends when it is told to, whatever it is in the middle of: in a process of its own, as it is started."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from synctva_ros.apps import ending

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "synctva_ros/demo"
SAID = {signal.SIGINT: "synctva: interrupted", signal.SIGTERM: "synctva: told to stop (SIGTERM)"}
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
#: Generous: no test depends on how fast the machine is.
PATIENCE = 120


def start(*line):
    """Start Python with these arguments."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, *map(str, line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


def guarded(body):
    """Start a command whose body says that it is ready before it does what it shall not be held up by."""
    program = (
        "import ctypes, sys, threading, time\n"
        "from synctva_ros.apps import ending\n"
        "ready = lambda: print('ready', flush=True)\n"
        "def command():\n" + "".join(f"    {line}\n" for line in body.splitlines()) + "    return 0\n"
        "sys.exit(ending.guard(command, is_process=True))\n"
    )
    process = start("-c", program)
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def end(process, number):
    """Send a signal; the exit status and what was said."""
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, errors


BODIES = {
    "waiting": "ready(); time.sleep(600)",
    "inside a library": "ready(); ctypes.CDLL(None).sleep(600)",
    "a library that swallows it": "ready()\nwhile True:\n    try: time.sleep(600)\n    except BaseException: pass",
    "a library that makes something else of it": (
        "ready()\ntry: time.sleep(600)\nexcept BaseException: raise SystemError('initialization failed') from None"
    ),
    "where nothing can be raised": (
        "class It:\n    def __del__(self): ready(); time.sleep(600)\nit = It()\ndel it\nctypes.CDLL(None).sleep(600)"
    ),
    "taking down that hangs": "try: ready(); time.sleep(600)\nfinally: ctypes.CDLL(None).sleep(600)",
    "a thread that hangs": (
        "threading.Thread(target=lambda: ctypes.CDLL(None).sleep(600), daemon=True).start()\nready(); time.sleep(600)"
    ),
}


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_it_ends_in_one_line_whatever_it_does(body, number):
    status, errors = end(guarded(body), number)
    assert status == STATUS[number]
    assert errors == SAID[number] + "\n"


def test_what_was_begun_is_taken_down():
    process = guarded("try: ready(); time.sleep(600)\nfinally: print('down', file=sys.stderr)")
    assert end(process, signal.SIGTERM) == (143, "down\n" + SAID[signal.SIGTERM] + "\n")


def test_an_import_is_not_cut_short(tmp_path):
    """A library of C++ that is interrupted while it is being imported may end the process by abort()."""
    slow = "import sys, time\nprint('ready', flush=True)\ntime.sleep(1)\nsys.stderr.write('whole\\n')\n"
    (tmp_path / "slow.py").write_text(slow)
    body = f"ending.patience = {PATIENCE}\nsys.path.insert(0, {str(tmp_path)!r})\nimport slow\ntime.sleep({PATIENCE})"
    assert end(guarded(body), signal.SIGTERM) == (143, f"whole\n{SAID[signal.SIGTERM]}\n")


def test_a_second_signal_does_not_cut_the_taking_down_short():
    body = (
        "import os, signal\n"
        "try: ready(); time.sleep(600)\n"
        "finally:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.5)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('down', file=sys.stderr)"
    )
    assert end(guarded(body), signal.SIGINT) == (130, "down\n" + SAID[signal.SIGINT] + "\n")


def test_a_thread_that_hangs_does_not_hold_up_a_command_that_is_done():
    process = guarded("threading.Thread(target=lambda: ctypes.CDLL(None).sleep(600), daemon=True).start(); ready()")
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("error", ["Failure('no')", "OSError('no')", "ValueError('no')", "ImportError('n\\no')"])
def test_what_cannot_be_done_is_one_sentence(error, capsys):
    def command():
        raise eval(error, vars(ending))

    assert ending.guard(command) == 1
    assert capsys.readouterr().err.replace("n o", "no") == "synctva: no\n"


def test_what_is_our_own_mistake_keeps_its_traceback_and_the_signals_are_given_back():
    before = [signal.getsignal(number) for number in SAID]
    with pytest.raises(ZeroDivisionError):
        ending.guard(lambda: 1 // 0)
    assert [signal.getsignal(number) for number in SAID] == before
    assert not [thread for thread in threading.enumerate() if thread.name == "interrupts"]


class TestCommands:
    """The commands themselves."""

    @pytest.fixture
    def silent_camera(self):
        """A camera in the network that takes the call and says nothing."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            calls = []
            called = threading.Event()

            def answer():
                while True:
                    try:
                        calls.append(server.accept())
                    except OSError:
                        return
                    called.set()

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/it", called
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection, _ in calls:
                connection.close()

    def own(self, errors):
        assert "Traceback" not in errors
        return [line for line in errors.splitlines() if line.startswith("synctva: ")]

    def started(self, *line):
        process = start("-m", "synctva_ros.apps.cli", *line)
        for said in process.stderr:
            if said.startswith("Loading"):
                return process
        raise AssertionError(process.wait())

    @pytest.mark.parametrize("number", SAID)
    @pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 3.0])
    @pytest.mark.parametrize("line", ["recognize", "run"])
    def test_while_models_load(self, line, number, seconds, tmp_path):
        """Wherever it is by then: the times only spread over what is done meanwhile."""
        if line == "run":
            pytest.importorskip("rclpy", reason="ROS 2 is not installed")
            process = self.started("run", "--media", DEMO / "dialogue.flac", "--whisper", "demo")
        else:
            for copy in range(200):  # more than any machine recognises meanwhile
                (tmp_path / f"{copy}.flac").symlink_to(DEMO / "dialogue.flac")
            process = self.started("recognize", tmp_path, "--modalities", "av", "--json", tmp_path / "lines.jsonl")
        threading.Event().wait(seconds)
        status, errors = end(process, number)
        assert status == STATUS[number]
        assert self.own(errors) == [SAID[number]]

    def test_a_camera_that_never_answers(self, silent_camera):
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")
        address, called = silent_camera
        process = start(
            *("-m", "synctva_ros.apps.cli", "run", "--media", DEMO / "dialogue.flac", "--whisper", "demo"),
            *("--camera", address),
        )
        assert called.wait(PATIENCE)
        status, errors = end(process, signal.SIGINT)
        assert status == 130
        assert self.own(errors) == [SAID[signal.SIGINT]]

    @pytest.mark.parametrize("options", [("--json", "-"), ()])
    def test_whoever_has_seen_enough(self, options):
        process = start("-m", "synctva_ros.apps.cli", "recognize", DEMO, "--modalities", "a", *options)
        first = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(PATIENCE) == ending.BROKEN_PIPE
        assert "dialogue.flac" in (json.loads(first)["file"] if options else first)
        assert "roken" not in errors
        assert self.own(errors) == []

    def test_whoever_has_seen_enough_of_the_graph(self):
        pytest.importorskip("rclpy", reason="ROS 2 is not installed")
        process = start("-m", "synctva_ros.apps.cli", "run", "--media", DEMO / "dialogue.flac", "--fast", "--json")
        json.loads(process.stdout.readline())
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(PATIENCE) == ending.BROKEN_PIPE
        assert "roken" not in errors
        assert self.own(errors) == []
