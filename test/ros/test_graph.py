"""The whole street over real DDS: the demo dialogue in, one message on /emotion per turn out."""

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from synctva_ros import msg  # noqa: E402
from synctva_ros.events import AudioChunk, Modality  # noqa: E402
from synctva_ros.ros.convert import chunk_to_msg, from_time, to_time  # noqa: E402
from synctva_ros.ros.graph import Graph  # noqa: E402
from synctva_ros.ros.node import QOS_AUDIO_IN, QOS_AUDIO_OUT, QOS_LATCHED, QOS_RESULT  # noqa: E402
from synctva_ros.sources.media import MediaFile  # noqa: E402

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "synctva_ros/demo"
WHISPER = str(ROOT / "synctva_ros/weights/whisper_demo")
SCRIPT = json.loads((DEMO / "dialogue.json").read_text())["turns"]
CORE = ["utterance", "transcriber", "features", "emotion"]


class Observer(Node):
    """Listens to every topic of the street."""

    def __init__(self):
        super().__init__("observer")
        self.seen = {name: [] for name in ("audio", "utterance", "transcript", "features", "emotion", "emotion/labels")}
        types = (msg.AudioChunk, msg.Utterance, msg.Transcript, msg.UtteranceFeatures, msg.Emotion, msg.LabelTable)
        for (topic, seen), kind in zip(self.seen.items(), types, strict=True):
            qos = {"audio": QOS_AUDIO_IN, "emotion/labels": QOS_LATCHED}.get(topic, QOS_RESULT)
            self.create_subscription(kind, topic, self.hear if topic == "emotion" else seen.append, qos)
        self.seen["provisional"] = []
        self.over = set()
        self.diagnostics = {}
        self.create_subscription(DiagnosticArray, "/diagnostics", self.diagnose, QoSProfile(depth=10))

    def hear(self, message):
        """One final message an utterance, and what is provisional before it."""
        assert message.utterance_id not in self.over
        if message.status == msg.Emotion.PROVISIONAL:
            self.seen["provisional"].append(message)
        else:
            self.over.add(message.utterance_id)
            self.seen["emotion"].append(message)

    def diagnose(self, message):
        for status in message.status:
            self.diagnostics[status.name] = (status.message, {pair.key: pair.value for pair in status.values})


def play(nodes, overrides, while_running=lambda graph: None, seconds=240.0):
    """Run a graph until its file has ended and return what an observer saw."""
    overrides = {"transcriber": {"model": WHISPER}, **overrides}
    graph = Graph(nodes, ROOT / "config/perception.yaml", overrides, on_emotion=lambda message: None)
    observer = Observer()
    try:
        graph.executor.add_node(observer)
        graph.start()
        deadline = time.monotonic() + seconds
        while not graph.finished:
            while_running(graph)
            assert time.monotonic() < deadline, "the graph has not finished"
            time.sleep(0.05)
        time.sleep(0.5)  # the observer may be a moment behind the graph's own listener
    finally:
        graph.stop()
        observer.destroy_node()
    observer.seen["diagnostics"] = observer.diagnostics
    return observer.seen


@pytest.fixture(scope="module")
def face_picture(tmp_path_factory):
    data = pytest.importorskip("skimage.data", reason="scikit-image, which ships a picture of a face, is not installed")
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("face") / "face.png"
    cv2.imwrite(str(path), cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR))
    return path


def test_the_dialogue_in_real_time(face_picture):
    media = {"file": str(DEMO / "dialogue.flac"), "realtime": True, "video_rate": 0.0}
    seen = play([*CORE, "media", "camera"], {"media": media, "camera": {"device": str(face_picture)}})
    emotions = seen["emotion"]
    origin = from_time(seen["audio"][0].header.stamp)

    assert [message.text for message in emotions] == [turn["text"] for turn in SCRIPT]
    assert [message.turn for message in emotions] == list(range(len(SCRIPT)))
    assert len({message.dialogue_id for message in emotions}) == 1
    for message, turn in zip(emotions, SCRIPT, strict=True):
        assert message.status in (msg.Emotion.FINAL, msg.Emotion.UNCERTAIN)
        assert (from_time(message.header.stamp) - origin) / 1e9 == pytest.approx(turn["end"], abs=0.1)
        assert (from_time(message.start) - origin) / 1e9 == pytest.approx(turn["start"], abs=0.1)
        assert message.stream_end == pytest.approx(turn["end"], abs=0.1)
        assert sum(message.probabilities) == pytest.approx(1.0, abs=1e-4)
        assert sum(message.contributions) == pytest.approx(1.0, abs=1e-4)
        assert message.confidence == pytest.approx(max(message.probabilities))
        assert message.label == message.labels[int(np.argmax(message.probabilities))]
        assert message.modalities == Modality.TEXT | Modality.AUDIO | Modality.VISION
        assert message.face_id.startswith("f")
        durations = dict(zip(message.stages, message.durations, strict=True))
        assert {"endpoint", "transcribe", "audio", "vision", "text", "network", "total"} <= set(durations)
        assert durations["total"] >= durations["endpoint"] >= 0.5  # the hang-over is part of both
        assert np.isnan(message.valence)
        assert np.isnan(message.arousal)
    for number, message in enumerate(emotions):
        assert set(message.context_ids) <= {earlier.utterance_id for earlier in emotions[:number]}
        assert len(message.context_ids) == len(message.context_weights)

    # Identity: the same id at every stop, and chunks that were really sent.
    ids = [message.utterance_id for message in emotions]
    for topic in ("utterance", "transcript", "features"):
        assert [message.utterance_id for message in seen[topic]] == ids
    chunks = {(chunk.stream_id, chunk.sequence): chunk for chunk in seen["audio"]}
    for utterance in seen["utterance"]:
        first = chunks[utterance.stream_id, utterance.first_sequence]
        last = chunks[utterance.stream_id, utterance.last_sequence]
        length = len(first.samples) / first.sample_rate * 1e9
        assert 0 <= from_time(utterance.samples_start) - from_time(first.header.stamp) <= length
        assert from_time(last.header.stamp) > from_time(utterance.header.stamp) - length

    # While someone speaks: voice and face every half second, in the same turn of the dialogue as the answer.
    for message in emotions:
        before = [other for other in seen["provisional"] if other.utterance_id == message.utterance_id]
        lengths = np.array([other.stream_end - other.stream_start for other in before])
        assert len(before) >= int((message.stream_end - message.stream_start) / 0.5) - 1
        assert np.all(np.abs(np.diff(lengths) / 0.5 - np.round(np.diff(lengths) / 0.5)) < 0.1)
        for other in before:
            assert (other.turn, other.dialogue_id) == (message.turn, message.dialogue_id)
            assert other.modalities == Modality.AUDIO | Modality.VISION
            assert other.text == ""
            assert other.stream_end <= message.stream_end + 0.15

    said = seen["diagnostics"]
    assert set(said) == {*CORE, "media", "camera"}
    assert said["camera"][0] == "watching"
    assert int(said["utterance"][1]["utterances"]) >= len(SCRIPT) - 1
    assert said["transcriber"][1]["model"] == "whisper_demo"
    assert said["emotion"][1]["dropped"] == "0"

    table = seen["emotion/labels"][0]
    assert list(table.labels) == list(emotions[0].labels)
    assert table.model_id == emotions[0].model_id != ""


def test_as_fast_as_it_can_go_from_a_file_with_sound_and_pictures(face_picture, tmp_path):
    av, cv2 = pytest.importorskip("av"), pytest.importorskip("cv2")
    picture = cv2.resize(cv2.imread(str(face_picture)), (640, 480))
    path = tmp_path / "dialogue.mkv"
    with av.open(str(DEMO / "dialogue.flac")) as source, av.open(str(path), "w") as out:
        sound = out.add_stream("flac", rate=source.streams.audio[0].rate, layout="mono")
        video = out.add_stream("mpeg4", rate=5, width=640, height=480, pix_fmt="yuv420p")
        for _ in range(int(5 * (SCRIPT[-1]["end"] + 1))):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        for frame in source.decode(audio=0):
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        out.mux(video.encode(None))
    seen = play([*CORE, "media"], {"media": {"file": str(path), "realtime": False}})
    assert [message.text for message in seen["emotion"]] == [turn["text"] for turn in SCRIPT]
    for message, features in zip(seen["emotion"], seen["features"], strict=True):
        assert message.modalities & Modality.VISION
        assert features.frames_with_face >= 0.8 * features.frames_seen > 0


def test_without_words_without_camera_it_goes_on():
    media = {"file": str(DEMO / "dialogue.flac"), "realtime": False}
    seen = play([*CORE, "media"], {"media": media, "transcriber": {"model": ""}})
    assert len(seen["emotion"]) == len(SCRIPT)
    for message in seen["emotion"]:
        assert message.text == ""
        assert message.modalities == Modality.AUDIO
        assert list(message.contributions) == [0.0, 1.0, 0.0]


def test_a_pause_and_the_reset_service_start_a_new_dialogue():
    def reset_once(graph, done=[]):  # noqa: B006 (remembers that it has been called)
        answered = len(graph.answered)
        if answered >= 3 and not done:
            done.append(True)
            caller = Node("caller")
            graph.executor.add_node(caller)
            client = caller.create_client(Trigger, "emotion/reset")
            assert client.wait_for_service(timeout_sec=10.0)
            future = client.call_async(Trigger.Request())
            while not future.done():
                time.sleep(0.01)
            assert future.result().success
            graph.executor.remove_node(caller)
            caller.destroy_node()

    media = {"file": str(DEMO / "dialogue.flac"), "realtime": True}
    seen = play([*CORE, "media"], {"media": media, "transcriber": {"model": ""}}, reset_once)
    dialogues = [message.dialogue_id for message in seen["emotion"]]
    assert dialogues[0] == dialogues[2] != dialogues[3] == dialogues[-1]
    assert [message.turn for message in seen["emotion"]][:4] == [0, 1, 2, 0]

    seen = play(
        [*CORE, "media"],
        {"media": {**media, "realtime": False}, "transcriber": {"model": ""}, "emotion": {"pause": 1.5}},
    )
    pauses = [after["start"] - before["end"] for before, after in itertools.pairwise(SCRIPT)]
    expected = [pause > 1.5 for pause in pauses]
    assert True in expected
    assert False in expected
    dialogues = [message.dialogue_id for message in seen["emotion"]]
    assert [after != before for before, after in itertools.pairwise(dialogues)] == expected


class Driver(Node):
    """Somebody else's microphone driver and simulator: sound with stamps of its own, and /clock."""

    def __init__(self):
        super().__init__("driver")
        self.audio = self.create_publisher(msg.AudioChunk, "audio", QOS_AUDIO_OUT)
        self.clock = self.create_publisher(Clock, "/clock", QoSProfile(depth=10))
        self.robot = self.create_publisher(Bool, "robot_speaking", QOS_RESULT)


def drive(overrides, chunks, on_chunk=lambda driver, chunk: None):
    """Send chunks to the core nodes, on sim time, and return what an observer saw."""
    overrides = {name: {"use_sim_time": True, **overrides.get(name, {})} for name in CORE}
    graph = Graph(CORE, None, overrides, on_emotion=lambda message: None)
    observer, driver = Observer(), Driver()
    try:
        for node in (observer, driver):
            graph.executor.add_node(node)
        graph.start()
        while driver.audio.get_subscription_count() < 2:
            time.sleep(0.02)
        for chunk in chunks:
            driver.clock.publish(Clock(clock=to_time(chunk.stamp + 30_000_000)))
            on_chunk(driver, chunk)
            driver.audio.publish(chunk_to_msg(chunk, "mic"))
            time.sleep(0.002)
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            ended = chunks[-1].stream_id in graph.nodes["utterance"].ended_streams
            if ended and len(observer.seen["emotion"]) >= len(observer.seen["utterance"]):
                break
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        graph.stop()
        observer.destroy_node()
        driver.destroy_node()
    return observer.seen


ORIGIN = 100_000_000_000  # sim time begins near 0


def dialogue_chunks(turns):
    """The first turns of the dialogue as chunks, with a last one that ends the stream."""
    until = ORIGIN + round((SCRIPT[turns - 1]["end"] + 1.0) * 1e9)
    chunks = [chunk for chunk in MediaFile(DEMO / "dialogue.flac").play(ORIGIN) if chunk.stamp < until]
    last = chunks[-1]
    end = AudioChunk(last.stream_id, last.sequence + 1, until, last.sample_rate, last.samples[:0], end_of_stream=True)
    return [*chunks, end]


def test_topics_of_another_driver_on_sim_time():
    seen = drive({"transcriber": {"model": WHISPER}}, dialogue_chunks(3))
    assert [message.text for message in seen["emotion"]] == [turn["text"] for turn in SCRIPT[:3]]
    for message, turn in zip(seen["emotion"], SCRIPT[:3], strict=True):
        assert from_time(message.header.stamp) / 1e9 == pytest.approx(100.0 + turn["end"], abs=0.1)
        assert message.header.frame_id == "mic"
        durations = dict(zip(message.stages, message.durations, strict=True))
        # Counted on /clock, which stands near 100 s and runs about fifteen times as fast as the wall.
        assert 0.45 <= durations["endpoint"] <= durations["total"] < 60.0


def test_what_is_done_ahead_changes_nothing():
    """The same sound with and without work inside the pause and estimates before it."""
    seen = {}
    for ahead in (False, True):
        utterance = {"speculate": ahead, "provisional_interval": 0.5 if ahead else 0.0}
        seen[ahead] = drive({"transcriber": {"model": WHISPER}, "utterance": utterance}, dialogue_chunks(6))
    assert [message.text for message in seen[True]["emotion"]] == [turn["text"] for turn in SCRIPT[:6]]
    for topic in ("utterance", "transcript", "features", "emotion"):
        assert len(seen[True][topic]) == len(seen[False][topic]) == 6
    for ahead, plain in zip(seen[True]["emotion"], seen[False]["emotion"], strict=True):
        assert (ahead.text, ahead.label, ahead.status, ahead.turn) == (
            plain.text,
            plain.label,
            plain.status,
            plain.turn,
        )
        np.testing.assert_allclose(ahead.probabilities, plain.probabilities, atol=1e-5)
        np.testing.assert_allclose(ahead.contributions, plain.contributions, atol=1e-3)
    assert seen[False]["provisional"] == []
    assert {message.utterance_id for message in seen[True]["provisional"]} <= {
        message.utterance_id for message in seen[True]["emotion"]
    }


def test_the_robot_does_not_listen_to_itself():
    """The robot speaks from 4.5 s to 8 s, over the whole second turn."""

    def robot(driver, chunk):
        second = (chunk.stamp - ORIGIN) / 1e9
        for at, speaking in ((4.5, True), (8.0, False)):
            if abs(second - at) < 0.015:
                driver.robot.publish(Bool(data=speaking))
                time.sleep(0.3)

    seen = drive({"transcriber": {"model": WHISPER}}, dialogue_chunks(3), robot)
    assert [message.text for message in seen["emotion"]] == [SCRIPT[0]["text"], SCRIPT[2]["text"]]


def test_damaged_sound_leaves_the_graph_alive():
    """Turn 0 with NaN, chunks doubled, swapped and one lost; a malformed chunk; turns 1 and 2 whole."""
    chunks = dialogue_chunks(3)
    samples = chunks[60].samples.copy()
    samples[:20] = np.nan
    chunks[60] = AudioChunk(chunks[60].stream_id, 60, chunks[60].stamp, chunks[60].sample_rate, samples)
    sent = [*chunks[:50], chunks[49], chunks[51], chunks[50], *chunks[52:70], *chunks[71:]]

    def malformed(driver, chunk):
        if chunk.sequence == 90:
            driver.audio.publish(msg.AudioChunk(stream_id=chunk.stream_id, sequence=5, channels=2, samples=[0.0]))

    seen = drive({"transcriber": {"model": WHISPER}}, sent, malformed)
    assert len(seen["emotion"]) == 3
    assert [message.text for message in seen["emotion"]][1:] == [turn["text"] for turn in SCRIPT[1:3]]
    assert all(np.isfinite(message.probabilities).all() for message in seen["emotion"])


def ask(client, request, seconds=2.0):
    """Return the id of the state that a node says it is in, None when it does not answer in time."""
    future = client.call_async(request)
    deadline = time.monotonic() + seconds
    while not future.done() and time.monotonic() < deadline:
        time.sleep(0.02)
    return future.result().current_state.id if future.done() else None


def test_each_node_in_a_process_of_its_own():
    """What perception.launch.py starts: one process a node, driven through the lifecycle services."""
    from lifecycle_msgs.msg import State, Transition
    from lifecycle_msgs.srv import ChangeState, GetState

    steps = (
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE),
    )
    arguments = {
        "emotion": [],
        "features": ["vision:=false"],
        "transcriber": [f"model:={WHISPER}"],
        "utterance": [],
        "media": [f"file:={DEMO / 'dialogue.flac'}", "realtime:=false"],
    }
    processes = {}
    for name, values in arguments.items():
        command = [sys.executable, "-m", f"synctva_ros.ros.{name}", "--ros-args"]
        for value in values:
            command += ["-p", value]
        processes[name] = subprocess.Popen(command, env=os.environ)
    rclpy.init()
    observer = Observer()
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(observer)
    spinner = threading.Thread(target=executor.spin, daemon=True)
    spinner.start()
    try:
        for name in arguments:
            change = observer.create_client(ChangeState, f"{name}/change_state")
            get = observer.create_client(GetState, f"{name}/get_state")
            assert change.wait_for_service(timeout_sec=60.0), name
            assert get.wait_for_service(timeout_sec=60.0), name
            for transition, before, after in steps:
                # A request or its answer may be lost so soon after discovery: ask for the state, and send it again.
                deadline = time.monotonic() + 120.0
                while (state := ask(get, GetState.Request())) != after:
                    assert time.monotonic() < deadline, f"{name} is in state {state}, not {after}"
                    if state == before:
                        change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        deadline = time.monotonic() + 120.0
        while len(observer.seen["emotion"]) < len(SCRIPT) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in processes.values():
            assert process.poll() is None
    finally:
        for process in processes.values():
            process.terminate()
        codes = {name: process.wait(timeout=30) for name, process in processes.items()}
        executor.shutdown()
        spinner.join()
        observer.destroy_node()
        rclpy.try_shutdown()
    assert [message.text for message in observer.seen["emotion"]] == [turn["text"] for turn in SCRIPT]
    assert set(codes.values()) == {0}, codes


def test_unknown_parameters_are_reported(capfd):
    rclpy.init()
    from synctva_ros.ros.utterance import UtteranceNode

    node = UtteranceNode(parameter_overrides=[Parameter("hang_over", value=0.3)])
    node.destroy_node()
    rclpy.try_shutdown()
    assert "hang_over" in capfd.readouterr().err
