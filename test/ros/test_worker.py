# SPDX-License-Identifier: Apache-2.0
"""The one-slot mailbox: the newest item wins, an overtaken one is reported, stop joins."""

import threading

from diffmf_ros.ros.frame_loop import Worker


def test_newer_items_overtake_waiting():
    """Items that wait are overtaken by newer ones."""
    # Given a worker that is busy with its first item
    handled, busy, go_on, done = [], threading.Event(), threading.Event(), threading.Event()

    def handle(item):
        handled.append(item)
        busy.set()
        assert go_on.wait(10)
        if item == 4:
            done.set()

    worker = Worker(handle)
    worker.start()
    assert worker.put(1) is False
    assert busy.wait(10)

    # When three more come in meanwhile
    overtook = [worker.put(item) for item in (2, 3, 4)]
    go_on.set()
    assert done.wait(10)
    worker.stop()

    # Then only the newest of them is handled
    assert overtook == [False, True, True]
    assert handled == [1, 4]


def test_idle_once_nothing_waits():
    """What was put off is done when nothing waits, and before the thread ends."""
    done, busy, go_on = [], threading.Event(), threading.Event()

    def handle(item):
        done.append(item)
        busy.set()
        return go_on.wait(10)

    idle = threading.Event()
    worker = Worker(handle, lambda: (done.append('idle'), idle.set()))
    worker.start()
    worker.put(1)
    assert busy.wait(10)
    worker.put(2)
    go_on.set()
    assert idle.wait(10)
    worker.stop()

    assert done[:3] == [1, 2, 'idle'] and set(done[3:]) == {'idle'}


def test_stop_finishes_current_item():
    """Stop finishes the item in work and tells of a waiting one."""
    handled, given_up, busy, go_on = [], [], threading.Event(), threading.Event()

    def handle(item):
        busy.set()
        assert go_on.wait(10)
        handled.append(item)

    worker = Worker(handle)
    worker.start()
    worker.put(1)
    assert busy.wait(10)
    worker.put(2)
    stopping = threading.Thread(target=lambda: given_up.append(worker.stop()))
    stopping.start()
    while not worker._stopping:
        stopping.join(0.001)
    go_on.set()
    stopping.join(10)

    assert not stopping.is_alive()
    assert handled == [1]
    assert given_up == [True]


def test_a_worker_without_work_stops():
    worker = Worker(lambda item: None)
    worker.start()

    assert worker.stop() is False
    assert 'fusion' not in [thread.name for thread in threading.enumerate()]
