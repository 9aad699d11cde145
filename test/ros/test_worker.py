"""The thread with the bounded queue."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from synctva_ros.ros.worker import Worker


class Gate:
    """Work that waits until it is let go on, and remembers what it was given."""

    def __init__(self):
        self.done = []
        self.begun = threading.Event()
        self.open = threading.Event()

    def __call__(self, item):
        self.begun.set()
        assert self.open.wait(10.0)
        self.done.append(item)
        if item == "bad":
            raise ValueError("bad item")


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def make(gate):
    made = []

    def build(size=3, **options):
        errors = []
        worker = Worker("w", gate, size, errors.append, **options)
        made.append(worker)
        return worker, errors

    yield build
    gate.open.set()
    for worker in made:
        worker.stop()


def until(condition):
    end = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_items_are_worked_on_in_order_on_another_thread(make, gate):
    gate.open.set()
    worker, errors = make(size=100)
    assert all(worker.put(number) for number in range(100))
    until(lambda: len(gate.done) == 100)
    assert gate.done == list(range(100))
    assert errors == []


@pytest.mark.parametrize(
    ("latest_wins", "done"), [(False, [0, 1, 2]), (True, [0, 3, 4])], ids=["refuses", "forgets the oldest"]
)
def test_a_full_queue(make, gate, latest_wins, done):
    worker, _ = make(size=2, latest_wins=latest_wins)
    assert worker.put(0)
    gate.begun.wait(5.0)
    assert [worker.put(number) for number in (1, 2, 3, 4)] == [True, True, False, False]
    assert (worker.waiting, worker.dropped) == (2, 2)
    gate.open.set()
    until(lambda: gate.done == done)
    assert worker.waiting == 0


def test_an_error_is_reported_and_the_next_item_is_worked_on(make, gate):
    gate.open.set()
    worker, errors = make(size=10)
    for item in ("a", "bad", "b"):
        worker.put(item)
    until(lambda: gate.done == ["a", "bad", "b"])
    assert [str(error) for error in errors] == ["bad item"]


def test_stop_waits_for_the_item_in_work_and_gives_the_rest_up(make, gate):
    worker, _ = make(size=2)
    worker.put(0)
    gate.begun.wait(5.0)
    worker.put(1)
    worker.put(2)  # the queue is full
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    until(worker._stop.is_set)
    gate.open.set()
    stopping.join(1.0)
    assert not stopping.is_alive()
    assert gate.done == [0]


def test_stop_of_an_idle_worker_is_quick_and_leaves_no_thread():
    before = threading.active_count()
    workers = [Worker(f"w{number}", print, 3, lambda error: None) for number in range(10)]
    begun = time.monotonic()
    for worker in workers:
        worker.stop()
        worker.stop()  # twice does no harm
    assert time.monotonic() - begun < 1.0
    assert threading.active_count() == before


def test_what_is_to_be_prepared_is_prepared_once_on_the_thread(make, gate):
    gate.open.set()
    where = []
    worker, _ = make(prepare=lambda: where.append(threading.current_thread().name))
    worker.put(0)
    worker.put(1)
    until(lambda: len(gate.done) == 2)
    assert where == ["w"]


def test_what_is_due_is_done_unless_an_item_comes_before():
    events, due = [], [None]

    def on_due():
        events.append(time.monotonic() - due[0])
        due[0] = None

    worker = Worker("w", events.append, 3, print, due=lambda: due[0], on_due=on_due)
    due[0] = time.monotonic() + 0.1
    worker.put("wakes the thread up, which then sees when something is due")
    until(lambda: len(events) == 2)
    assert events[1] >= 0.0
    due[0] = time.monotonic() + 3600.0
    worker.put("first")
    worker.put("second")
    until(lambda: events[2:] == ["first", "second"])
    worker.stop()


def test_nothing_is_lost_or_doubled_when_many_put():
    done = []
    worker = Worker("w", done.append, 5, lambda error: None, latest_wins=True)

    def put(name):
        for number in range(300):
            worker.put((name, number))

    threads = [threading.Thread(target=put, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(done) + worker.dropped >= 1200)
    worker.stop()
    assert len(set(done)) == len(done)
    assert len(done) + worker.dropped >= 1200
    for name in range(4):
        numbers = [number for who, number in done if who == name]
        assert numbers == sorted(numbers)
