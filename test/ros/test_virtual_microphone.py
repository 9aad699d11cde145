"""The demo's first turns through a virtual microphone: PulseAudio null sink → sounddevice → the whole graph."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")
pytest.importorskip("sounddevice", exc_type=OSError, reason="PortAudio (libportaudio2) is not installed")

from harness import SCRIPT, dialogue_chunks
from make_dialogue import write_flac

from synctva_ros.events import SAMPLE_RATE

#: The first turns of the demo's dialogue.
TURNS = SCRIPT[:5]
#: Generous: nothing here depends on how fast the machine is.
PATIENCE = 180.0
pytestmark = pytest.mark.skipif(
    shutil.which("pulseaudio") is None or shutil.which("paplay") is None, reason="PulseAudio is not installed"
)


@pytest.fixture
def virtual_microphone(tmp_path):
    """A PulseAudio server of our own with one null sink; yields the environment of its clients."""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PULSE_RUNTIME_PATH": str(tmp_path / "pulse"),
        "PULSE_SERVER": f"unix:{tmp_path}/socket",
        "PULSE_SINK": "robot_mic",
        "PULSE_SOURCE": "robot_mic.monitor",
    }
    (tmp_path / ".asoundrc").write_text("pcm.pulse { type pulse }\nctl.pulse { type pulse }\n")
    server = subprocess.Popen(
        [
            *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit"),
            *("-L", f"module-native-protocol-unix socket={tmp_path}/socket auth-anonymous=1"),
            *("-L", "module-null-sink sink_name=robot_mic rate=16000 channels=1"),
        ],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            if subprocess.run(["pactl", "info"], env=environment, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        else:
            pytest.skip("the PulseAudio server does not start here")
        yield environment
    finally:
        server.terminate()
        server.wait(timeout=10)


def finals(lines):
    """The messages that are not replaced by a later one."""
    return [emotion for emotion in map(json.loads, lines) if emotion["status"] != "PROVISIONAL"]


@pytest.mark.timeout(900)
def test_the_dialogue_through_a_microphone(virtual_microphone, tmp_path):
    sound = np.concatenate([chunk.samples[:, 0] for chunk in dialogue_chunks(len(TURNS))])
    write_flac(tmp_path / "dialogue.flac", sound)
    command = [sys.executable, "-m", "synctva_ros.apps.cli", "run", "--mic", "pulse", "--json", "--whisper", "demo"]
    process = subprocess.Popen(
        command, env=virtual_microphone, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log: list[str] = []
    opened = threading.Event()

    def read_log():
        for line in process.stderr:
            log.append(line)
            if "is open" in line:
                opened.set()

    lines: list[str] = []
    readers = [
        threading.Thread(target=read_log, daemon=True),
        threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        assert opened.wait(PATIENCE), "".join(log)
        second = subprocess.run(command, env=virtual_microphone, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert "is running already in the ROS domain" in second.stderr.splitlines()[-1]
        begun = time.time()
        subprocess.run(["paplay", str(tmp_path / "dialogue.flac")], env=virtual_microphone, check=True)
        played = time.time() - begun
        deadline = time.monotonic() + PATIENCE
        while len(finals(lines)) < len(TURNS) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=PATIENCE)
        for reader in readers:
            reader.join()
    emotions = finals(lines)
    assert len(lines) > len(emotions)  # the others are provisional
    assert [emotion["text"] for emotion in emotions] == [turn["text"] for turn in TURNS], "".join(log)
    assert code == 130
    # When the first sample of paplay enters the sink is not known exactly, only that paplay ends when all was heard;
    # from the first one on, both clocks are the same.
    ends = [e["header"]["stamp"]["sec"] + e["header"]["stamp"]["nanosec"] * 1e-9 - begun for e in emotions]
    late = [end - turn["end"] for end, turn in zip(ends, TURNS, strict=True)]
    assert -0.1 <= min(late) <= max(late) <= played - len(sound) / SAMPLE_RATE + 0.1
    assert max(late) - min(late) < 0.1
    assert len({emotion["stream_id"] for emotion in emotions}) == 1
