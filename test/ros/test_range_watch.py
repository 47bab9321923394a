# SPDX-License-Identifier: Apache-2.0
"""The distance of the plane comes from the range finder as long as that sends it."""

import math
from types import SimpleNamespace

import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import Range

from diffmf_ros.core.alignment.geometry import AlignmentError
from diffmf_ros.ros import range_watch
from diffmf_ros.ros.range_watch import RangeWatch

NOBODY = ('alignment.depth_from_range is on, and no usable range came on /range for 3 s: '
          'alignment.plane_depth_m is used')
BAD = 'range is not usable: expected a depth above 0 m, got 0.0 m'


def reading(distance_m):
    """Return a message of a range finder that measures 0 to 50 m."""
    return Range(range=distance_m, min_range=0.0, max_range=50.0)


class Plane:
    """A RangeWatch at a time that is set by hand, and the depths that it gives."""

    def __init__(self, monkeypatch):
        self.now_s, self.depths_m, self.logged = 100.0, [], []
        monkeypatch.setattr(range_watch.time, 'monotonic', lambda: self.now_s)
        log = SimpleNamespace(info=self._log, warning=self._log)
        node = SimpleNamespace(get_logger=lambda: log, resolve_topic_name='/{}'.format)
        self.watch = RangeWatch(node, self._take)

    def _log(self, text, **_):
        self.logged.append(text)

    def _take(self, depth_m):
        if depth_m == 0:
            raise AlignmentError(f'expected a depth above 0 m, got {depth_m} m')
        self.depths_m.append(depth_m)

    def after(self, seconds):
        """Return what is amiss that much later."""
        self.now_s += seconds
        self.watch.refresh()
        return [(issue.code, issue.text) for issue in self.watch.issues]


@pytest.fixture
def plane(monkeypatch):
    return Plane(monkeypatch)


def test_missing_range_is_said_once(plane):
    """Without a reading in the first seconds a warning says what is used, until one comes."""
    assert plane.after(2.9) == []
    assert plane.after(0.1) == plane.after(5) == [('no_range', NOBODY)]
    assert plane.logged == [NOBODY] and plane.depths_m == [None]

    plane.watch.take(reading(8.0))

    assert plane.after(0) == [] and plane.depths_m == [None, 8.0]
    assert plane.logged[1:] == ['range: its readings are used again']


def test_old_reading_is_not_used(plane):
    """A reading holds for 3 s after a range finder has died, or sees nothing."""
    plane.watch.take(reading(8.0))

    assert plane.after(2) == []
    plane.watch.take(reading(math.inf))
    assert plane.after(1) == [('no_range', NOBODY)]
    assert plane.depths_m == [8.0, None]


def test_bad_reading_is_no_sign_of_life(plane):
    """Readings that no plane can have are said, and do not keep an old one in use."""
    plane.watch.take(reading(8.0))
    for _ in range(3):
        plane.now_s += 1
        plane.watch.take(reading(0.0))

    assert plane.after(0) == [('range_unusable', BAD), ('no_range', NOBODY)]
    assert plane.logged == [BAD, NOBODY]

    plane.watch.take(reading(5.0))
    assert plane.after(0) == [] and plane.depths_m[-1] == 5.0


def test_complaint_goes_with_its_setting(make_cameras):
    """Nothing is said of the range finder any more when alignment.depth_from_range is off."""
    cameras = make_cameras(alignment__depth_from_range=True)
    cameras.publisher(Range, 'range').publish(reading(0.0))
    cameras.peer.wait_for(lambda: BAD in cameras.message(), 'the complaint')
    cameras.peer.wait_for(lambda: NOBODY in cameras.message(), 'that none is usable')

    cameras.node.set_parameters([Parameter('alignment.depth_from_range', value=False)])

    seen = len(cameras.reports)
    cameras.peer.wait_for(lambda: len(cameras.reports) > seen + 2, 'more reports')
    assert 'range' not in cameras.message()
