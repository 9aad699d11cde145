"""Every node goes through its life twice, and lets go of all that it took."""

import gc
import threading
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from synctva_ros.config import NODES  # noqa: E402
from synctva_ros.ros.graph import create_node  # noqa: E402

ROOT = Path(__file__).parents[2]
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
#: What each node needs to be configured, in the order of ``config.NODES``.
VALUES = {
    "microphone": {},
    "camera": {"device": "no-such-camera"},
    "media": {"file": str(ROOT / "synctva_ros/demo/dialogue.flac"), "wait_for_graph": 0.0},
    "utterance": {},
    "transcriber": {"model": str(ROOT / "synctva_ros/weights/whisper_demo")},
    "faces": {},
    "features": {},
    "emotion": {},
}


@pytest.fixture(autouse=True)
def ros():
    rclpy.init()
    yield
    rclpy.try_shutdown()


def build(name, **values):
    return create_node(name, parameter_overrides=[Parameter(key, value=value) for key, value in values.items()])


def build_whole(name):
    """A node that shall be configured: what it needs of the machine must be there."""
    if name == "microphone":
        pytest.importorskip("sounddevice", exc_type=OSError, reason="PortAudio (libportaudio2) is not installed")
    return build(name, **VALUES[name])


def entities(node):
    return (
        len(list(node.subscriptions)),
        len(list(node.publishers)),
        len(list(node.timers)),
        len(list(node.services)),
    )


@pytest.mark.parametrize("name", VALUES)
def test_configure_activate_deactivate_cleanup_and_again(name):
    node = build_whole(name)
    born, threads = entities(node), set(threading.enumerate())
    alive = None
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS, node.refusal
        configured = entities(node)
        assert node.trigger_activate() == SUCCESS, node.refusal
        assert entities(node) != configured
        # The second life looks like the first: nothing piles up.
        assert alive in (None, entities(node))
        alive = entities(node)
        node.publish_diagnostics()
        time.sleep(0.1)
        assert node.trigger_deactivate() == SUCCESS
        assert entities(node) == configured
        assert set(threading.enumerate()) <= threads | library_threads()
        assert node.trigger_cleanup() == SUCCESS
        assert entities(node) == born
    node.destroy_node()


def test_a_destroyed_node_leaves_no_dds_behind():
    """Not even until the garbage collector runs: that may be in the middle of anything."""

    def listening():
        return sum("dds.udp" in task.read_text() for task in Path("/proc/self/task").glob("*/comm"))

    gc.collect()
    gc.disable()
    try:
        before = listening()
        node = build("utterance")
        assert node.trigger_configure() == node.trigger_activate() == SUCCESS
        assert listening() > before
        node.shut_down()
        node.destroy_node()
        rclpy.try_shutdown()
        assert listening() == before
    finally:
        gc.enable()


def library_threads():
    """Threads that a library keeps for the whole process, of which there is one each (tqdm's monitor)."""
    return {thread for thread in threading.enumerate() if type(thread).__module__.startswith("tqdm")}


@pytest.mark.parametrize("name", VALUES)
def test_shutdown_while_active_releases_everything(name):
    node = build_whole(name)
    born, threads = entities(node), set(threading.enumerate())
    assert node.trigger_configure() == SUCCESS, node.refusal
    assert node.trigger_activate() == SUCCESS, node.refusal
    assert node.trigger_shutdown() == SUCCESS
    assert entities(node) == born
    assert set(threading.enumerate()) <= threads | library_threads()
    node.destroy_node()


RANGES = [
    (name, param)
    for name, config in NODES.items()
    for param in config.params()
    if param.choices or param.high is not None
]


@pytest.mark.parametrize(("name", "param"), RANGES, ids=[f"{name}.{param.name}" for name, param in RANGES])
def test_a_parameter_out_of_range_refuses_to_configure_and_says_which(name, param):
    bad = "nonsense" if param.choices else type(param.default)(param.high + 1)
    node = build(name, **{param.name: bad})
    assert node.trigger_configure() == FAILURE
    assert param.name in node.refusal
    assert str(bad) in node.refusal
    node.destroy_node()


def test_a_parameter_of_the_wrong_type_refuses_and_a_good_value_mends_it():
    node = build("utterance", hangover="long")
    assert node.trigger_configure() == FAILURE
    assert "hangover" in node.refusal
    assert node.set_parameters([Parameter("hangover", value=0.4)])[0].successful
    assert node.trigger_configure() == SUCCESS, node.refusal
    node.shut_down()
    node.destroy_node()


def test_a_whole_number_for_a_float_is_refused_with_what_to_write():
    node = build("utterance", hangover=1)
    assert node.trigger_configure() == FAILURE
    assert "hangover" in node.refusal
    assert "write 1.0" in node.refusal
    node.destroy_node()


def test_parameters_that_contradict_each_other_are_refused():
    node = build("utterance", start_ratio=0.2, stop_ratio=0.5)
    assert node.trigger_configure() == FAILURE
    assert "stop_ratio" in node.refusal
    node.destroy_node()


def test_a_choice_that_does_not_exist_cannot_be_set_later():
    node = build("emotion")
    result = node.set_parameters([Parameter("device", value="toaster")])[0]
    assert not result.successful
    assert "'auto', 'cpu', 'cuda'" in result.reason
    node.destroy_node()


@pytest.mark.parametrize(
    ("values", "part"),
    [({}, "file"), ({"file": "/no/such/file.wav"}, "/no/such/file.wav"), ({"file": __file__}, "media file")],
)
def test_media_without_a_playable_file_is_refused(values, part):
    node = build("media", **values)
    assert node.trigger_configure() == FAILURE
    assert part in node.refusal
    node.destroy_node()


def test_weights_that_are_not_there_are_refused(tmp_path):
    node = build("emotion", weights=str(tmp_path))
    assert node.trigger_configure() == FAILURE
    assert str(tmp_path) in node.refusal
    node.destroy_node()


def test_every_parameter_is_described_and_its_default_is_within_its_range():
    assert list(VALUES) == list(NODES)
    for name, config in NODES.items():
        for param in config.params():
            assert len(param.meaning) > 10, f"{name}.{param.name}"
            assert param.problem(param.default) == "", f"{name}.{param.name}"
            assert (param.low is None) == (param.high is None), f"{name}.{param.name}"
