"""What all nodes share: images arrive whatever reliability their publisher has, and a signal ends a node."""

import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from synctva_ros.ros.node import QOS_IMAGE_IN, QOS_IMAGE_OUT, PerceptionNode  # noqa: E402

#: Somebody's camera driver: at most 20 images of 900 kB each second, with their numbers for stamps.
DRIVER = """
import itertools, time, rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from synctva_ros.ros.node import QOS_IMAGE_OUT
rclpy.init()
publisher = Node("driver").create_publisher(Image, "image", QOS_IMAGE_OUT)
message = Image(data=bytes(640 * 480 * 3))
for message.header.stamp.sec in itertools.count():
    publisher.publish(message)
    time.sleep(0.05)
"""


class Watcher(PerceptionNode):
    """Receives images and does nothing with them; it has the parameters of the node that looks at them."""

    def __init__(self):
        self.seen = []
        self.warnings = []
        super().__init__("faces")

    def get_logger(self):
        return SimpleNamespace(warning=self.warnings.append, error=self.warnings.append, info=lambda sentence: None)

    def activate(self):
        self.subscribe(Image, "image", self.seen.append, QOS_IMAGE_IN)


@pytest.fixture
def watcher():
    rclpy.init()
    node = Watcher()
    node.trigger_configure()
    node.trigger_activate()
    yield node
    node.shut_down()
    assert not list(node.subscriptions)
    node.destroy_node()
    rclpy.try_shutdown()


def spin(seconds, done, *nodes):
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()


def test_large_images_from_another_process_arrive(watcher):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER])
    try:
        spin(120.0, lambda: len(watcher.seen) >= 20, watcher)
    finally:
        driver.kill()
        driver.wait()
    numbers = [message.header.stamp.sec for message in watcher.seen]
    assert len(numbers) >= 20
    assert numbers[-1] - numbers[0] < 2 * len(numbers)  # with best effort hardly any comes whole
    assert not watcher.warnings


def test_images_of_a_best_effort_driver_arrive_and_a_later_reliable_one_gives_each_once(watcher):
    driver = Node("driver")
    lossy = driver.create_publisher(Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    driver.create_timer(0.05, lambda: lossy.publish(Image(encoding="lossy", data=bytes(3000))))
    spin(60.0, lambda: len(watcher.seen) >= 3, watcher, driver)
    assert len(watcher.seen) >= 3
    assert len(watcher.warnings) == 1
    assert "image" in watcher.warnings[0]
    assert len(list(watcher.subscriptions)) == 1

    other = driver.create_publisher(Image, "image", QOS_IMAGE_OUT)
    spin(60.0, lambda: other.get_subscription_count(), watcher, driver)
    other.publish(Image(encoding="reliable", data=bytes(3000)))
    spin(60.0, lambda: watcher.seen[-1].encoding == "reliable", watcher, driver)
    spin(0.5, lambda: False, watcher, driver)
    assert [message.encoding for message in watcher.seen].count("reliable") == 1
    driver.destroy_node()


#: A node that is told to stop while it is imported, or built.
EARLY = {
    "imported": """
class Hook:
    def find_spec(self, name, *rest):
        if name == "synctva_ros.ros.graph":
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Hook())
import synctva_ros.ros.__main__
""",
    "built": """
from synctva_ros.ros import __main__, graph
def create_node(name):
    os.kill(os.getpid(), number)
    return graph.create_node(name)
__main__.create_node = create_node
__main__.main("utterance")
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", EARLY)
def test_a_signal_that_comes_early_ends_a_node_without_a_word(moment, number):
    code = f"import os, sys\nnumber = {int(number)}\n{EARLY[moment]}\nprint('it goes on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stderr, done.returncode) == ("", -number if moment == "imported" else 0)
    assert done.stdout == ("" if moment == "imported" else "it goes on\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_soon_and_without_an_error(number):
    command = [sys.executable, "-m", "synctva_ros.ros", "utterance"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    rclpy.init()
    observer = Node("observer")
    deadline = time.monotonic() + 120.0
    while "utterance" not in observer.get_node_names() and time.monotonic() < deadline:
        time.sleep(0.05)
    observer.destroy_node()
    rclpy.try_shutdown()
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in said
