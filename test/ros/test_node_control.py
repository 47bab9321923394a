# SPDX-License-Identifier: Apache-2.0
"""Changes while the node runs: at once, all or nothing, and with the reason when refused."""

import importlib.util

import numpy as np
import pytest
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.core.settings import DEFAULTS, iter_specs
from diffmf_ros.ros import parameters

BEFORE = {item.name: item.value for item in iter_specs(DEFAULTS)}
needs_torch = pytest.mark.skipif(importlib.util.find_spec('torch') is None,
                                 reason='torch is not installed')


def change(cameras, **changes):
    """Set parameters together, as one request; return the result."""
    given = [Parameter(name.replace('__', '.'), value=value) for name, value in changes.items()]
    return cameras.node.set_parameters_atomically(given)


def call(cameras, on: bool):
    """Call the service ~/enable as another node would."""
    client = cameras.peer.node.create_client(SetBool, '/fusion_node/enable')
    cameras.peer.wait_for(client.service_is_ready, 'the service')
    answer = client.call_async(SetBool.Request(data=on))
    cameras.peer.wait_for(answer.done, 'an answer')
    return answer.result()


def test_change_applies_next_frame(cameras):
    """A change holds from the next frame on."""
    assert cameras.fuse_one().encoding == 'bgr8'

    assert change(cameras, output__color='gray').successful
    assert cameras.fuse_one().encoding == 'mono8'
    assert change(cameras, output__color='inferno').successful
    assert cameras.fuse_one().encoding == 'bgr8'


def test_settings_but_autostart_change_live(cameras):
    """Every setting but autostart can change while the node runs."""
    cameras.fuse_one()
    others = {
        'scale': 0.5, 'adaptive_scale': True, 'max_pixels': 1_000_000, 'warm_up_size': '',
        'threads': 1,
        'input.rgb_transport': 'compressed', 'input.thermal_transport': 'compressed',
        'sync.max_distance_ms': 10.0, 'sync.hold_last_ms': 100.0, 'sync.rgb_offset_ms': 1.0,
        'sync.thermal_offset_ms': 1.0,
        'thermal.gain_control': 'linear', 'thermal.low_percentile': 2.0,
        'thermal.high_percentile': 98.0, 'thermal.time_constant_s': 1.0, 'thermal.max_change': 0.5,
        'thermal.radiometric_unit': 'kelvin', 'thermal.radiometric_low_k': 250.0,
        'thermal.radiometric_high_k': 350.0,
        'thermal.linear_low': 1.0, 'thermal.linear_high': 9000.0, 'thermal.polarity': 'black_hot',
        'thermal.repair_rows': False, 'alignment.plane_depth_m': 5.0,
        'alignment.depth_from_range': True,
        'alignment.trim_x_px': 1.0, 'alignment.trim_y_px': 1.0, 'alignment.output_grid': 'thermal',
        'health.source_timeout_s': 2.0, 'health.frozen_frames': 5, 'health.shutter_flag': True,
        'health.compute_timeout_s': 3.0,
        'output.color': 'gray', 'output.jpeg_quality': 50, 'qos.reliability': 'auto',
        'qos.depth': 5}

    for name, value in others.items():
        result = change(cameras, **{name: value})
        assert result.successful, (name, result.reason)
        assert cameras.node.get_parameter(name).value == value

    refused = change(cameras, autostart=False)
    assert not refused.successful and 'it has started' in refused.reason


def test_one_wrong_change_cancels_all(cameras):
    """Of several changes none is made when one is wrong."""
    refused = change(cameras, output__color='gray', thermal__low_percentile=50.0,
                     thermal__high_percentile=50.0)

    assert not refused.successful
    assert 'thermal.low_percentile must be below thermal.high_percentile' in refused.reason
    assert parameters.read(cameras.node).output == DEFAULTS.output
    assert cameras.fuse_one().encoding == 'bgr8'


@pytest.mark.parametrize('name, value, words', [
    ('alignment.file', '/nowhere/a.yaml', 'cannot read the alignment file'),
    ('weights', '/nowhere/w.safetensors', '/nowhere/w.safetensors'),
    ('model', 'clasical', 'one of diffmf, s4fusion, refinefuse, classical'),
    ('scale', 'large', 'must be of type float'),
    ('preset', 'base', 's4fusion')])
def test_impossible_change_is_refused(cameras, name, value, words):
    """What cannot work is refused with the reason and fusion goes on."""
    # the authors' S4Fusion has no weights of ours
    models = {'weights': 'diffmf', 'preset': 's4fusion'}
    wanted = {'model': models[name], name: value} if name in models else {name: value}
    cameras.fuse_one()

    refused = change(cameras, **wanted)

    assert not refused.successful and words in refused.reason
    assert cameras.node.get_parameter('model').value == 'classical'
    assert cameras.node.get_parameter(name).value == {**BEFORE, 'model': 'classical'}[name]
    assert cameras.fuse_one().encoding == 'bgr8'
    assert cameras.state()['mode'] == 'CLASSICAL'


@pytest.mark.skipif(importlib.util.find_spec('message_filters') is not None,
                    reason='message_filters is installed')
def test_policy_needs_message_filters(cameras):
    """A policy of message_filters needs message_filters."""
    refused = change(cameras, sync__policy='approximate')

    assert (not refused.successful and 'message_filters' in refused.reason
            and 'install' in refused.reason)
    assert cameras.fuse_one()


@pytest.mark.skipif(importlib.util.find_spec('tf2_ros') is not None, reason='tf2_ros is installed')
def test_extrinsics_from_tf_need_tf2_ros(cameras):
    refused = change(cameras, alignment__from_tf=True)

    assert not refused.successful and 'tf2_ros' in refused.reason and 'install' in refused.reason
    assert cameras.fuse_one()


@needs_torch
def test_network_swapped_in_and_out(cameras):
    """A network is swapped in between frames and out again."""
    cameras.fuse_one()
    assert cameras.state()['mode'] == 'CLASSICAL'

    assert change(cameras, model='diffmf', preset='nano', threads=1).successful
    cameras.fuse_until(lambda image: cameras.state()['mode'] == 'FUSED', 'the network')
    assert cameras.state()['model'] == 'diffmf nano'

    assert change(cameras, model='classical').successful
    cameras.fuse_until(lambda image: cameras.state()['mode'] == 'CLASSICAL',
                       'the classical fusion')
    # Not one pair was lost on the way.
    assert [m.header for m in cameras.fused] == [m.header for m in cameras.states]
    gaps = np.diff([m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in cameras.fused])
    assert set(gaps) == {33_333_333}


@needs_torch
def test_all_three_networks_follow_one_another(cameras):
    cameras.fuse_one()
    for model in ('diffmf', 's4fusion', 'refinefuse'):
        assert change(cameras, model=model, preset='light', threads=1).successful
        cameras.fuse_until(lambda image, model=model: cameras.state()['model'] == f'{model} light',
                           model)
        assert cameras.state()['mode'] == 'FUSED'
    assert [m.header for m in cameras.fused] == [m.header for m in cameras.states]


@needs_torch
def test_failed_load_keeps_old_network(cameras, monkeypatch):
    """A network that fails to load leaves the old one and its parameters."""
    cameras.fuse_one()

    def fail(settings):
        raise DiffmfError('the self-check found NaN')

    monkeypatch.setattr(cameras.node._pipeline, 'load', fail)
    # all that can be seen at once is right
    assert change(cameras, model='diffmf', preset='nano').successful
    cameras.fuse_until(lambda image: cameras.node.get_parameter('model').value == 'classical',
                       'the way back')

    cameras.peer.wait_for(lambda: 'the self-check found NaN' in cameras.message(), 'the reason')
    assert cameras.reports[-1].status[0].level == b'\x02'
    assert cameras.node.get_parameter('preset').value == 'auto'
    assert cameras.fuse_one() and cameras.state()['mode'] == 'CLASSICAL'


@needs_torch
def test_late_loaded_network_survives_restart(cameras):
    """A network that was loaded just before the node stopped is there when it starts again."""
    cameras.fuse_one()
    fuser = cameras.node._session.fuser
    assert change(cameras, model='diffmf', preset='nano', threads=1).successful
    cameras.peer.wait_for(lambda: fuser._network is not None, 'the network')

    cameras.node.trigger_deactivate()
    cameras.node.trigger_activate()

    cameras.stamp_ns += 10**9
    assert cameras.fuse_one()
    assert (cameras.state()['mode'], cameras.state()['model']) == ('FUSED', 'diffmf nano')


def test_counters_survive_pairing_change(cameras):
    """Counters go on when the pairing changes."""
    cameras.fuse_one()
    cameras.next()
    cameras.rgb(np.random.default_rng(5).integers(60, 120, (48, 64, 3), dtype=np.uint8))
    cameras.stamp_ns += 200_000_000
    cameras.fuse_one()
    cameras.peer.wait_for(lambda: cameras.values().get('dropped.unpaired') == '1',
                          'one frame without a partner')

    assert change(cameras, sync__max_distance_ms=10.0).successful
    cameras.fuse_one()

    assert cameras.node._session._pairing.dropped['unpaired'] == 1


def test_disabled_node_neither_listens_nor_publishes(cameras):
    """A disabled node neither listens nor publishes until it is enabled."""
    cameras.fuse_one()
    publisher = cameras.publisher(cameras.images['rgb'], 'rgb/image_raw')

    answer = call(cameras, False)
    assert answer.success and answer.message == 'disabled'
    cameras.peer.wait_for(lambda: not publisher.get_subscription_count(),
                          'the subscription to end')
    cameras.peer.wait_for(lambda: cameras.message() == 'disabled', 'a report')
    assert cameras.reports[-1].status[0].level == b'\x00'

    assert call(cameras, True).success
    assert cameras.fuse_one()


def test_inactive_node_remembers_disabled(cameras):
    """An inactive node remembers that it is disabled."""
    cameras.node.trigger_deactivate()
    assert call(cameras, False).message == 'disabled, from the next activation on'

    cameras.node.trigger_activate()
    cameras.peer.wait_for(lambda: cameras.message() == 'disabled', 'a report')
    assert call(cameras, True).message == 'enabled'
    assert cameras.fuse_one()
