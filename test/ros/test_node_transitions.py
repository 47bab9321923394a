# SPDX-License-Identifier: Apache-2.0
"""Transitions are answered in time for a lifecycle manager, however long the network takes to
load."""

import importlib.util
import threading
import time

import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.inference.pipeline import FusionPipeline
from diffmf_ros.ros.fusion_node import LOADING_S

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
# What nav2's lifecycle manager waits for a transition by default.
MANAGER_S = 5.0

pytestmark = pytest.mark.skipif(importlib.util.find_spec('torch') is None,
                                reason='torch is not installed')


@pytest.fixture
def managed(cameras):
    """Return Cameras around an unconfigured node that is to fuse with a network, driven from
    outside."""
    cameras.node.trigger_deactivate()
    cameras.node.trigger_cleanup()
    cameras.stamp_ns += 10**9
    cameras.node.set_parameters([Parameter('model', value='diffmf'),
                                 Parameter('preset', value='nano'),
                                 Parameter('threads', value=1),
                                 Parameter('warm_up_size', value='64x48')])
    return cameras


def test_slow_network_follows_later(managed, monkeypatch, capfd):
    """A network that loads slowly follows later."""
    # given a machine that needs until somebody lets it go on
    go_on, load = threading.Event(), FusionPipeline.load
    monkeypatch.setattr(FusionPipeline, 'load', lambda self,
                        settings: go_on.wait(60) and load(self, settings))

    # when a manager configures and activates the node
    times = []
    for transition in (managed.node.trigger_configure, managed.node.trigger_activate):
        start_s = time.monotonic()
        assert transition() == SUCCESS
        times.append(time.monotonic() - start_s)

    # then both are answered in time, classical images come, and later those of the network
    assert times[0] >= LOADING_S and max(times) < MANAGER_S
    assert managed.fuse_one()
    assert managed.state()['mode'] == 'CLASSICAL'
    assert 'diffmf nano is loaded aside' in capfd.readouterr().err
    go_on.set()
    managed.fuse_until(lambda image: managed.state()['mode'] == 'FUSED', 'the network')
    assert managed.state()['model'] == 'diffmf nano'


def test_quick_network_fuses_first_image(managed, monkeypatch):
    """A network that loads quickly fuses from the first image on."""
    monkeypatch.setattr('diffmf_ros.ros.fusion_node.LOADING_S', 60.0)

    assert managed.node.trigger_configure() == SUCCESS
    assert managed.node.trigger_activate() == SUCCESS

    assert managed.fuse_one()
    assert managed.state()['mode'] == 'FUSED'


def test_unloadable_network_fails_transition(managed, monkeypatch, capfd):
    """A network that cannot be loaded fails the transition."""
    def fail(self, settings):
        raise DiffmfError('the weights are cut')

    monkeypatch.setattr(FusionPipeline, 'load', fail)
    managed.node._make_pipeline = _only_classical

    assert managed.node.trigger_configure() == FAILURE

    assert 'cannot configure: the weights are cut' in capfd.readouterr().err
    managed.node._make_pipeline = FusionPipeline
    managed.node.set_parameters([Parameter('model', value='classical')])
    assert managed.node.start()
    assert managed.fuse_one()


def _only_classical(settings, *, watchdog):
    if settings.model != 'classical':
        raise DiffmfError('the weights are cut')
    return FusionPipeline(settings, watchdog=watchdog)
