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

#: Somebody's camera driver: 20 images of 900 kB each second.
DRIVER = """
import time, rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
from synctva_ros.ros.node import QOS_IMAGE_OUT
rclpy.init()
publisher = Node("driver").create_publisher(Image, "image", QOS_IMAGE_OUT)
message = Image(data=bytes(640 * 480 * 3))
while True:
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
        spin(20.0, lambda: watcher.seen, watcher)
        before = len(watcher.seen)
        spin(1.0, lambda: False, watcher)
    finally:
        driver.kill()
        driver.wait()
    assert len(watcher.seen) - before >= 10
    assert not watcher.warnings


def test_images_of_a_best_effort_driver_arrive_and_a_later_reliable_one_gives_each_once(watcher):
    driver = Node("driver")
    lossy = driver.create_publisher(Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    driver.create_timer(0.05, lambda: lossy.publish(Image(encoding="lossy", data=bytes(3000))))
    spin(10.0, lambda: len(watcher.seen) >= 3, watcher, driver)
    assert len(watcher.seen) >= 3
    assert len(watcher.warnings) == 1
    assert "image" in watcher.warnings[0]
    assert len(list(watcher.subscriptions)) == 1

    other = driver.create_publisher(Image, "image", QOS_IMAGE_OUT)
    spin(10.0, lambda: other.get_subscription_count(), watcher, driver)
    other.publish(Image(encoding="reliable", data=bytes(3000)))
    spin(0.5, lambda: False, watcher, driver)
    assert [message.encoding for message in watcher.seen].count("reliable") == 1
    driver.destroy_node()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_node_soon_and_without_an_error(number):
    command = [sys.executable, "-m", "synctva_ros.ros", "utterance"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    rclpy.init()
    observer = Node("observer")
    deadline = time.monotonic() + 30.0
    while "utterance" not in observer.get_node_names() and time.monotonic() < deadline:
        time.sleep(0.05)
    observer.destroy_node()
    rclpy.try_shutdown()
    time.sleep(0.5)  # the name is there before the node spins
    begun = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert time.monotonic() - begun < 5.0
