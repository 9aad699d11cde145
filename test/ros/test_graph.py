"""The whole street over real DDS: the demo dialogue in, one message on /emotion per turn out."""

import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from harness import DEMO, ORIGIN, ROOT, SCRIPT, WHISPER, Observer, dialogue_chunks, until  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_msgs.msg import Bool  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from synctva_ros import msg  # noqa: E402
from synctva_ros.config import plan  # noqa: E402
from synctva_ros.events import AudioChunk, EndOfStream, Modality  # noqa: E402
from synctva_ros.ros.convert import from_time, to_msg, to_time  # noqa: E402
from synctva_ros.ros.graph import Graph, create_node  # noqa: E402
from synctva_ros.ros.node import QOS_AUDIO_OUT, QOS_RESULT  # noqa: E402

CORE = tuple(plan())
HEARD = ("audio", "utterance", "transcript", "faces", "features", "emotion", "emotion/labels")
#: Of the time since the end of speech, one after the other.
STAGES = ["turns", "fusion", "dialogue", "total"]


def planned(changes=None, *, media=None, **asked):
    """The nodes for what is asked for, with the demo's recogniser and some other parameters."""
    nodes = plan(media=str(media or ""), whisper="demo", **asked)
    for name, values in (changes or {}).items():
        nodes[name] = nodes.get(name, {}) | values
    return nodes


def sort_emotions(observer):
    """One final message an utterance, and what is provisional before it."""
    said, over = observer.seen.pop("emotion", []), set()
    observer.seen["emotion"], observer.seen["provisional"] = [], []
    for message in said:
        assert message.utterance_id not in over
        if message.status == msg.Emotion.PROVISIONAL:
            observer.seen["provisional"].append(message)
        else:
            *shares, total = message.durations
            assert list(message.stages) == STAGES
            # Since a recording was made years may have passed, of which a float32 holds seven digits.
            assert sum(shares) == pytest.approx(total, rel=1e-6, abs=1e-4)
            over.add(message.utterance_id)
            observer.seen["emotion"].append(message)


def play(nodes, seconds=240.0):
    """Run a graph until its file has ended and return what an observer saw."""
    answered = []
    graph = Graph(nodes, ROOT / "config/perception.yaml", lambda emotion: emotion.is_final and answered.append(emotion))
    observer = Observer(*HEARD)
    try:
        graph.executor.add_node(observer)
        graph.start()
        deadline = time.monotonic() + seconds
        while not graph.finished:
            assert time.monotonic() < deadline, "the graph has not finished"
            time.sleep(0.05)
        # The observer may be a moment behind the graph's own listener, and diagnostics come once a second.
        final = {msg.Emotion.FINAL, msg.Emotion.UNCERTAIN}
        until(
            lambda: sum(message.status in final for message in observer.seen["emotion"]) >= len(answered), "an answer"
        )
        until(lambda: set(observer.diagnostics) == set(nodes), "the diagnostics")
    finally:
        graph.stop()
        observer.destroy_node()
    sort_emotions(observer)
    assert [message.utterance_id for message in observer.seen["emotion"]] == [one.utterance_id for one in answered]
    observer.seen["diagnostics"] = observer.diagnostics
    return observer.seen


@pytest.fixture(scope="module")
def face_image(tmp_path_factory):
    data = pytest.importorskip("skimage.data", reason="scikit-image, which ships an image of a face, is not installed")
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("face") / "face.png"
    cv2.imwrite(str(path), cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2BGR))
    return path


def test_the_dialogue_in_real_time(face_image):
    nodes = planned(media=DEMO / "dialogue.flac", camera=str(face_image))
    seen = play(nodes)
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
        assert durations["total"] >= durations["turns"] >= 0.5  # the hang-over is part of both
        assert set(message.work) == {"transcribe", "audio", "text", "vision", "network"}
        assert all(seconds > 0 for seconds in message.work_durations)
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

    # One report of the faces in each image, and of whose they are.
    assert len({from_time(report.header.stamp) for report in seen["faces"]}) == len(seen["faces"])
    reports = [(from_time(report.header.stamp), report.faces[0].face_id) for report in seen["faces"] if report.faces]
    for (before, one), (after, other) in itertools.pairwise(sorted(reports)):
        assert one == other or after - before > 1e9, "a face that is seen again within a second keeps its id"
    assert {message.face_id for message in emotions} <= {face_id for _, face_id in reports}

    # While someone speaks: voice and face every half second where the machine has the time for it, in the same turn of
    # the dialogue as the answer.
    assert seen["provisional"]
    for message in emotions:
        before = [other for other in seen["provisional"] if other.utterance_id == message.utterance_id]
        lengths = np.array([other.stream_end - other.stream_start for other in before])
        assert np.all(np.diff(lengths) > 0.4)
        for other in before:
            assert (other.turn, other.dialogue_id) == (message.turn, message.dialogue_id)
            assert other.modalities == Modality.AUDIO | Modality.VISION
            assert other.text == ""
            assert other.stream_end <= message.stream_end + 0.15

    said = seen["diagnostics"]
    assert set(said) == set(nodes) == {*CORE, "media", "camera"}
    assert said["camera"][0] == "watching"
    assert int(said["utterance"][1]["utterances"]) >= len(SCRIPT) - 1
    assert said["transcriber"][1]["model"] == "whisper_demo"
    assert said["emotion"][1]["shed"] == "0"

    table = seen["emotion/labels"][0]
    assert list(table.labels) == list(emotions[0].labels)
    assert table.model_id == emotions[0].model_id != ""


def test_as_fast_as_it_can_go_from_a_file_with_sound_and_images(face_image, tmp_path):
    av, cv2 = pytest.importorskip("av"), pytest.importorskip("cv2")
    image = cv2.resize(cv2.imread(str(face_image)), (640, 480))
    path = tmp_path / "dialogue.mkv"
    with av.open(str(DEMO / "dialogue.flac")) as source, av.open(str(path), "w") as out:
        sound = out.add_stream("flac", rate=source.streams.audio[0].rate, layout="mono")
        video = out.add_stream("mpeg4", rate=5, width=640, height=480, pix_fmt="yuv420p")
        for _ in range(int(5 * (SCRIPT[-1]["end"] + 1))):
            out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        for frame in source.decode(audio=0):
            out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
        out.mux(video.encode(None))
    seen = play(planned(media=path, fast=True))
    assert [message.text for message in seen["emotion"]] == [turn["text"] for turn in SCRIPT]
    for message, features in zip(seen["emotion"], seen["features"], strict=True):
        assert message.modalities & Modality.VISION
        assert features.frames_with_face >= 0.8 * features.frames_seen > 0


def test_without_words_without_camera_it_goes_on():
    seen = play(planned({"transcriber": {"model": ""}}, media=DEMO / "dialogue.flac", fast=True))
    assert len(seen["emotion"]) == len(SCRIPT)
    for message in seen["emotion"]:
        assert message.text == ""
        assert message.modalities == Modality.AUDIO
        assert list(message.contributions) == [0.0, 1.0, 0.0]


def test_a_long_pause_starts_a_new_dialogue():
    changes = {"transcriber": {"model": ""}, "emotion": {"pause": 1.5}}
    seen = play(planned(changes, media=DEMO / "dialogue.flac", fast=True))
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
        self.reset, self.answer = self.create_client(Trigger, "emotion/reset"), None
        self.answered, self.sent, self.turns = [], 0, None
        self.create_subscription(msg.Emotion, "emotion", self.hear, QOS_RESULT)

    def speaks(self, speaking):
        """Say that the robot does, when what was sent before has been heard; return when that has been heard, too."""
        (stage,) = self.turns._pipeline.stages
        until(lambda: self.turns.diagnose()[2]["chunks"] == self.sent, "the sound")
        self.robot.publish(Bool(data=speaking))
        gate = stage._endpointer
        until(lambda: (gate._gate is not None and gate._gate[1] is None) == speaking, "what the robot does")

    def hear(self, message):
        if message.status != msg.Emotion.PROVISIONAL:
            self.answered.append(message)


def drive(changes, chunks, on_chunk=lambda driver, chunk: None, *, sim_time=True):
    """Send chunks to the core nodes and return what an observer saw."""
    nodes = {name: values | {"use_sim_time": sim_time} for name, values in planned(changes).items()}
    graph = Graph(nodes, None, on_emotion=lambda emotion: None)
    observer, driver, ends = Observer(*HEARD), Driver(), []
    try:
        driver.turns = graph.nodes["utterance"]
        driver.turns.watchers.append(lambda event: isinstance(event, EndOfStream) and ends.append(event))
        for node in (observer, driver):
            graph.executor.add_node(node)
        graph.start()
        until(lambda: driver.audio.get_subscription_count() == 2, "the listeners to the sound")
        until(driver.robot.get_subscription_count, "a listener to what the robot says")
        for chunk in chunks:
            driver.clock.publish(Clock(clock=to_time(chunk.stamp + 30_000_000)))
            on_chunk(driver, chunk)
            driver.audio.publish(to_msg(chunk))
            driver.sent += 1
            time.sleep(0.002)
        expected = sum(chunk.end_of_stream for chunk in chunks)
        until(lambda: len(ends) == expected, "the end of the stream")
        count = int(driver.turns.diagnose()[2]["utterances"])
        final = {msg.Emotion.FINAL, msg.Emotion.UNCERTAIN}
        until(
            lambda: (
                sum(message.status in final for message in observer.seen["emotion"]) >= count
                and all(len(observer.seen[topic]) >= count for topic in ("utterance", "transcript", "features"))
            ),
            "an answer",
        )
    finally:
        graph.stop()
        observer.destroy_node()
        driver.destroy_node()
    sort_emotions(observer)
    return observer.seen


def test_topics_of_another_driver_on_sim_time():
    seen = drive({}, dialogue_chunks(3))
    assert [message.text for message in seen["emotion"]] == [turn["text"] for turn in SCRIPT[:3]]
    for message, turn in zip(seen["emotion"], SCRIPT[:3], strict=True):
        assert from_time(message.header.stamp) / 1e9 == pytest.approx(100.0 + turn["end"], abs=0.1)
        assert message.header.frame_id == "mic"
        durations = dict(zip(message.stages, message.durations, strict=True))
        # Counted on /clock, which stands near 100 s and runs about fifteen times as fast as the wall.
        assert 0.45 <= durations["turns"] <= durations["total"] < 60.0


def test_what_is_done_ahead_changes_nothing():
    """The same sound with and without work inside the pause and estimates before it."""
    seen = {}
    for ahead in (False, True):
        utterance = {"speculate": ahead, "provisional_interval": 0.5 if ahead else 0.0}
        seen[ahead] = drive({"utterance": utterance}, dialogue_chunks(3))
    assert [message.text for message in seen[True]["emotion"]] == [turn["text"] for turn in SCRIPT[:3]]
    for topic in ("utterance", "transcript", "features", "emotion"):
        assert len(seen[True][topic]) == len(seen[False][topic]) == 3
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


def test_the_reset_service_starts_a_new_dialogue():
    def reset(driver, chunk):
        """Once, when three turns have been answered."""
        if chunk.stamp - ORIGIN < (SCRIPT[2]["end"] + 0.8) * 1e9 or driver.answer is not None:
            return
        until(lambda: len(driver.answered) == 3, "three answers")
        assert driver.reset.wait_for_service(timeout_sec=60.0)
        future = driver.reset.call_async(Trigger.Request())
        until(future.done, "an answer of the service")
        driver.answer = future.result()
        assert driver.answer.success

    seen = drive({"transcriber": {"model": ""}}, dialogue_chunks(5), reset)
    dialogues = [message.dialogue_id for message in seen["emotion"]]
    assert dialogues[0] == dialogues[2] != dialogues[3] == dialogues[-1]
    assert [message.turn for message in seen["emotion"]] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("sim_time", [True, False], ids=["on /clock", "a recording with old stamps"])
def test_the_robot_does_not_listen_to_itself(sim_time):
    """The robot speaks from 4.5 s to 8 s, over the whole second turn."""

    def robot(driver, chunk):
        second = (chunk.stamp - ORIGIN) / 1e9
        for at, speaking in ((4.5, True), (8.0, False)):
            if abs(second - at) < 0.015:
                driver.speaks(speaking)

    seen = drive({}, dialogue_chunks(3), robot, sim_time=sim_time)
    assert [message.text for message in seen["emotion"]] == [SCRIPT[0]["text"], SCRIPT[2]["text"]]


@pytest.mark.parametrize("sim_time", [True, False], ids=["/clock is set back", "on the wall clock"])
def test_a_recording_that_is_played_twice_is_answered_twice(sim_time):
    """The same chunks with the same stream ids and stamps, as a bag that plays in a loop publishes them."""
    chunks = dialogue_chunks(3)
    seen = drive({}, [*chunks, *chunks], sim_time=sim_time)
    emotions = seen["emotion"]
    assert [message.text for message in emotions] == 2 * [turn["text"] for turn in SCRIPT[:3]]
    assert len({message.utterance_id for message in emotions}) == 6
    assert len({message.stream_id for message in emotions}) == 1
    for first, second in zip(emotions[:3], emotions[3:], strict=True):
        assert first.header.stamp == second.header.stamp
        assert (first.stream_start, first.stream_end) == (second.stream_start, second.stream_end)
        assert first.modalities == second.modalities == Modality.TEXT | Modality.AUDIO


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

    seen = drive({}, sent, malformed)
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
        "features": [],
        "transcriber": [f"model:={WHISPER}"],
        "faces": ["vision:=false"],
        "utterance": [],
        "media": [f"file:={DEMO / 'dialogue.flac'}", "realtime:=false"],
    }
    processes = {}
    for name, values in arguments.items():
        command = [sys.executable, "-m", "synctva_ros.ros", name, "--ros-args"]
        for value in values:
            command += ["-p", value]
        processes[name] = subprocess.Popen(command, env=os.environ)
    rclpy.init()
    observer = Observer("emotion")
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
        final = {msg.Emotion.FINAL, msg.Emotion.UNCERTAIN}
        while (
            sum(message.status in final for message in observer.seen["emotion"]) < len(SCRIPT)
            and time.monotonic() < deadline
        ):
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
    sort_emotions(observer)
    assert [message.text for message in observer.seen["emotion"]] == [turn["text"] for turn in SCRIPT]
    assert set(codes.values()) == {0}, codes


def test_unknown_parameters_are_reported(capfd):
    """Only what looks like a typing error is a warning: a file may have something for all nodes of a robot."""
    rclpy.init()
    values = {"hang_over": 0.3, "max_speed": 1.5, "gains": [1.0], "channels": 2}
    given = [Parameter(name, value=value) for name, value in values.items()]
    node = create_node("utterance", parameter_overrides=given)
    node.destroy_node()
    rclpy.try_shutdown()
    warning, told = capfd.readouterr().err.splitlines()
    assert warning.startswith("[WARN]")
    assert warning.endswith("there is no parameter 'hang_over', so it is left out; did you mean 'hangover'?")
    assert told.startswith("[INFO]")
    assert told.endswith("left out, as it has no such parameters: channels, gains, max_speed")
