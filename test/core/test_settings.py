# SPDX-License-Identifier: Apache-2.0
"""Settings: listing, changing, refusing; and the types that cross the layers."""

import dataclasses

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, DiffmfError, Frame, FrameError
from diffmf_ros.core.settings import (
    DEFAULTS,
    Settings,
    SettingsError,
    SyncSettings,
    iter_specs,
    with_changes,
)


def test_settings_listed_described_and_allowed():
    """Every setting is listed once with a description and an allowed default."""
    items = list(iter_specs(DEFAULTS))

    names = [item.name for item in items]
    assert len(names) == len(set(names))
    assert {'model', 'scale', 'sync.max_distance_ms', 'thermal.low_percentile',
            'qos.depth'} <= set(names)
    for item in items:
        assert len(item.description) > 10
        assert (item.low is None) == (item.high is None)
        item.check(item.value)


def test_listing_shows_given_values():
    """A listing shows the values of the given settings."""
    changed = Settings(scale=0.5, sync=SyncSettings(max_distance_ms=7.0))

    values = {item.name: item.value for item in iter_specs(changed)}

    assert values['scale'] == 0.5 and values['sync.max_distance_ms'] == 7.0
    assert values['model'] == DEFAULTS.model


def test_updated_changes_named_only():
    """Updated changes what is named and nothing else."""
    changed = with_changes(DEFAULTS, {'scale': 0.5, 'sync.rgb_offset_ms': -3.0,
                                      'sync.thermal_offset_ms': 4.0})

    before = {item.name: item.value for item in iter_specs(DEFAULTS)}
    after = {item.name: item.value for item in iter_specs(changed)}
    assert after == {**before, 'scale': 0.5, 'sync.rgb_offset_ms': -3.0,
                     'sync.thermal_offset_ms': 4.0}
    assert with_changes(changed, {}) == changed


def test_listed_names_can_be_set():
    """Every setting can be set by its listed name."""
    for item in iter_specs(DEFAULTS):
        assert with_changes(DEFAULTS, {item.name: item.value}) == DEFAULTS


def test_int_passes_for_float_only():
    """An int is taken for a float but not the other way round."""
    changed = with_changes(DEFAULTS, {'sync.max_distance_ms': 40})

    assert type(changed.sync.max_distance_ms) is float and changed.sync.max_distance_ms == 40.0
    with pytest.raises(SettingsError, match='qos.depth must be of type int, got 2.0'):
        with_changes(DEFAULTS, {'qos.depth': 2.0})


@pytest.mark.parametrize('changes, words', [
    ({'realtime': 'yes'}, r"unknown setting 'realtime', which is a group: did you mean "
                          r'realtime.\(thread_priority \| cpu_affinity \| lock_memory\)\?'),
    ({'sync.max_distance': 5.0}, "unknown setting 'sync.max_distance', did you mean "
     "sync.max_distance_ms.; docs/parameters.md"),
    ({'sync.max_distance': 5.0, 'thermal.polarty': 'x', 'scale': 3, 'qos.depth': 'deep'},
     "'sync.max_distance', did you mean sync.max_distance_ms.; unknown setting 'thermal.polarty', "
     'did you mean thermal.polarity.; docs/parameters.md lists all settings; scale must lie in '
     '.* got 3.0; qos.depth must be of type int'),
    ({'sync': 5.0}, "unknown setting 'sync'"),
    ({'scale': '1'}, "scale must be of type float, got '1'"),
    ({'threads': True}, 'threads must be of type int, got True'),
    ({'scale': 1.5}, 'scale must lie in 0.125 to 1.0, got 1.5'),
    ({'scale': float('nan')}, 'scale must lie in'),
    ({'qos.depth': 0}, 'qos.depth must lie in 1 to 10, got 0'),
    ({'model': 'magic'}, "model must be one of diffmf, s4fusion, refinefuse, classical; got "
     "'magic'"),
    ({'thermal.low_percentile': 50.0, 'thermal.high_percentile': 50.0},
     'low_percentile must be below'),
])
def test_wrong_changes_have_reasons(changes, words):
    """Each wrong change is refused with its reason."""
    with pytest.raises(SettingsError, match=words):
        with_changes(DEFAULTS, {'autostart': False, **changes})


def test_the_constructor_checks_too():
    with pytest.raises(SettingsError,
                       match='sync.max_distance_ms must lie in 0.0 to 1000.0, got -1.0'):
        Settings(sync=SyncSettings(max_distance_ms=-1.0))


def test_settings_and_frames_are_frozen():
    frame = Frame(RGB, 1, 'camera', np.zeros((3, 5), np.uint8), 'mono8')

    assert frame.size == (5, 3)
    for instance, name in ((DEFAULTS, 'scale'), (DEFAULTS.sync, 'rgb_offset_ms'),
                           (frame, 'stamp_ns')):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(instance, name, 0)


def test_all_errors_share_one_root():
    assert issubclass(FrameError, DiffmfError) and issubclass(SettingsError, DiffmfError)
