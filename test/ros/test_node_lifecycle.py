# SPDX-License-Identifier: Apache-2.0
"""Every transition does what it says.

Loads, warms up, listens, lets go, frees, and can be done again.
"""

import gc
import weakref

import pytest
from lifecycle_msgs.msg import State
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, Image

from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.inference.pipeline import FusionPipeline

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE


def listeners(cameras):
    """Return how many subscriptions the node has on its camera topics."""
    return sum(len(cameras.peer.node.get_subscriptions_info_by_topic(f'/{stream}/{topic}'))
               for stream in ('rgb', 'thermal') for topic in ('image_raw', 'camera_info'))


def talkers(cameras):
    """Return how many publishers of fused images there are."""
    return len(cameras.peer.node.get_publishers_info_by_topic('/fused/image'))


def state_of(node):
    return node._state_machine.current_state[0]


def test_listens_only_while_active(cameras):
    """A node listens only while it is active."""
    cameras.peer.wait_for(lambda: listeners(cameras) == 4 and talkers(cameras) == 1,
                          'the subscriptions')

    assert cameras.node.trigger_deactivate() == SUCCESS
    cameras.peer.wait_for(lambda: listeners(cameras) == 0, 'the subscriptions to end')
    assert talkers(cameras) == 1

    assert cameras.node.trigger_cleanup() == SUCCESS
    cameras.peer.wait_for(lambda: talkers(cameras) == 0, 'the publishers to go')
    assert state_of(cameras.node) == State.PRIMARY_STATE_UNCONFIGURED


def test_cleanup_frees_and_can_repeat(cameras):
    """Cleanup lets go of the network and everything can be done again."""
    cameras.fuse_one()
    for _ in range(3):
        pipeline = weakref.ref(cameras.node._pipeline)
        assert cameras.node.trigger_deactivate() == SUCCESS
        assert cameras.node.trigger_cleanup() == SUCCESS
        # The executor lets go of the callbacks that it knew when it looks for new ones.
        cameras.peer.wait_for(lambda gone=pipeline: gc.collect() >= 0 and gone() is None,
                              'the pipeline to go')

        assert cameras.node.start()
        cameras.stamp_ns += 10**9
        assert cameras.fuse_one()


def test_activation_warms_up_before_it_listens(cameras, monkeypatch):
    cameras.node.trigger_deactivate()
    cameras.peer.wait_for(lambda: listeners(cameras) == 0, 'the subscriptions to end')
    seen = []
    monkeypatch.setattr(FusionPipeline, 'warm_up', lambda self,
                        size: seen.append((size, listeners(cameras))))

    assert cameras.node.trigger_activate() == SUCCESS

    assert seen == [((640, 480), 0)]


def test_failed_activation_stays_inactive(cameras, monkeypatch, capfd):
    """An activation that fails leaves the node inactive and says why."""
    cameras.node.trigger_deactivate()

    def fail(self, size):
        raise DiffmfError('the device is gone')

    with monkeypatch.context() as patched:
        patched.setattr(FusionPipeline, 'warm_up', fail)
        assert cameras.node.trigger_activate() == FAILURE
    assert state_of(cameras.node) == State.PRIMARY_STATE_INACTIVE
    assert 'cannot activate: the device is gone' in capfd.readouterr().err
    assert cameras.node.trigger_activate() == SUCCESS
    assert cameras.fuse_one()


def test_failed_configure_stays_unconfigured(cameras, monkeypatch, capfd):
    """An unforeseen error of configure leaves the node unconfigured."""
    cameras.node.trigger_deactivate()
    cameras.node.trigger_cleanup()

    with monkeypatch.context() as patched:
        patched.setattr(cameras.node, '_make_pipeline', lambda settings, watchdog: 1 / 0)
        assert cameras.node.trigger_configure() == FAILURE
    assert state_of(cameras.node) == State.PRIMARY_STATE_UNCONFIGURED
    assert 'ZeroDivisionError' in capfd.readouterr().err
    assert cameras.node.start()
    assert cameras.fuse_one()


def test_last_image_arrives_before_inactive(cameras):
    """What was published last has arrived when the node is inactive."""
    cameras.fuse_one()
    cameras.pair()
    cameras.peer.wait_for(lambda: cameras.node._session._counters.totals({}).counted['fused'] == 2,
                          'the second image')

    cameras.node.trigger_deactivate()

    # Nobody has to publish any more for it to come.
    cameras.peer.wait_for(lambda: cameras.of(cameras.fused) and cameras.of(cameras.infos),
                          'the last image')


@pytest.mark.parametrize('message_type', [Image, CameraInfo])
def test_shutdown_from_every_state_frees_everything(make_cameras, message_type):
    cameras = make_cameras()
    cameras.fuse_one()

    assert cameras.node.trigger_shutdown() == SUCCESS

    assert state_of(cameras.node) == State.PRIMARY_STATE_FINALIZED
    cameras.peer.wait_for(lambda: listeners(cameras) == 0 and talkers(cameras) == 0,
                          'everything to go')
