# SPDX-License-Identifier: Apache-2.0
"""The distance of the plane of both images, by a range finder, and for how long a reading holds.
"""

import time
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import Range

from ..core.alignment.geometry import AlignmentError
from ..core.frames import Issue

RANGE = 'range'
# Slow range finders send once a second: three readings are missing, and a camera may be silent for
# as long before it is said.
OUTDATED_S = 3.0
# A range finder that gives usable and other readings in turn is said again this much later.
REPEAT_S = 60.0


class RangeWatch:
    """Takes the readings of a range finder, until none has been usable for OUTDATED_S.

    `issues` says what is amiss: a reading that no plane can have, or that none comes.
    """

    def __init__(self, node: Node, set_depth_m: Callable[[float | None], None]):
        """Wait for readings.

        Args:
            node: the node that subscribes.
            set_depth_m: takes a distance in meters, or None for alignment.plane_depth_m; raises
                AlignmentError for one that no plane can have.
        """
        self._node, self._set_depth_m = node, set_depth_m
        self._usable_s = time.monotonic()
        self._unusable: Issue | None = None
        self._outdated: Issue | None = None

    @property
    def issues(self) -> tuple[Issue, ...]:
        """Issues that hold now, of readings that are not usable or do not come."""
        return tuple(issue for issue in (self._unusable, self._outdated) if issue is not None)

    def take(self, message: Range) -> None:
        """Use a reading.

        One outside the sensor's own limits, as REP-117 has them, says nothing about the depth.
        """
        if not message.min_range <= message.range <= message.max_range:
            return
        try:
            self._set_depth_m(float(message.range))
        except AlignmentError as error:
            if self._unusable is None:
                self._unusable = Issue('range_unusable', f'{RANGE} is not usable: {error}')
                self._node.get_logger().warning(self._unusable.text,
                                                throttle_duration_sec=REPEAT_S)
            return
        self._usable_s, self._unusable = time.monotonic(), None
        if self._outdated is not None:
            self._outdated = None
            self._node.get_logger().info(f'{RANGE}: its readings are used again')

    def refresh(self) -> None:
        """Go back to alignment.plane_depth_m when the newest usable reading is too old; call it
        now and then."""
        if self._outdated is not None or time.monotonic() - self._usable_s < OUTDATED_S:
            return
        then = 'alignment.plane_depth_m is used'
        try:
            self._set_depth_m(None)
        except AlignmentError as error:
            then = f'the last one stays, as alignment.plane_depth_m is not usable: {error}'
        self._outdated = Issue(
            'no_range', 'alignment.depth_from_range is on, and no usable range came on '
            f'{self._node.resolve_topic_name(RANGE)} for {OUTDATED_S:g} s: {then}')
        self._node.get_logger().warning(self._outdated.text)
