# SPDX-License-Identifier: Apache-2.0
"""Latency quantiles in fixed memory."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmf_ros.core.sync.stream_measures import LatencyMeter


@settings(deadline=None)
@given(durations=st.lists(st.floats(0, 1e6), min_size=1, max_size=40), capacity=st.integers(1, 12),
       q=st.floats(0, 1))
def test_quantiles_of_newest_durations(durations, capacity, q):
    """Quantiles are those of the newest durations."""
    meter = LatencyMeter(capacity=capacity)

    for duration in durations:
        meter.add(duration)

    assert meter.count == len(durations)
    assert meter.quantile(q) == pytest.approx(np.quantile(durations[-capacity:], q))


def test_known_quantiles_of_durations():
    meter = LatencyMeter()

    for duration in range(101):
        meter.add(duration)

    assert [meter.quantile(q) for q in (0.0, 0.5, 0.99, 1.0)] == [0.0, 50.0, 99.0, 100.0]


def test_thousand_and_twenty_four_are_kept():
    meter = LatencyMeter()

    for duration in range(1025):
        meter.add(duration)

    assert meter.quantile(0) == 1


def test_an_empty_meter_has_no_quantile():
    meter = LatencyMeter(capacity=1)

    assert meter.count == 0
    assert math.isnan(meter.quantile(0.5))


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_nonfinite_duration_is_refused(value):
    """A duration that is not finite is refused."""
    meter = LatencyMeter()

    with pytest.raises(ValueError, match='finite'):
        meter.add(value)

    assert meter.count == 0


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='at least 1, got 0'):
        LatencyMeter(capacity=0)
    with pytest.raises(ValueError, match='between 0 and 1, got 1.01'):
        LatencyMeter().quantile(1.01)
