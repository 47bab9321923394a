# SPDX-License-Identifier: Apache-2.0
"""Warm targets of the thermal image that the fused image does not show, on thumbnails of both."""

from dataclasses import dataclass

import cv2
import numpy as np

from ..frames import Issue

# A target is so many gray levels warmer than the mean of its surround, which is this wide.
_SURROUND = (31, 31)
_WARMER = 40
# Smaller thumbnails are not judged: a few pixels of noise would be a target.
_LEAST_SIDE = 48
# It is also so many deviations of its surround warmer: noise and clutter are no targets.
_CLEARER = 3.0
# It has at least so many pixels of the thumbnail, and at most this share of it.
_LEAST_PIXELS, _LARGEST_SHARE = 4, 0.05
# Only the largest ones are compared, to bound the time.
_MOST_TARGETS = 6
# Hidden: less than a fifth of its contrast in thermal is left, or less than the eye sees.
_LEFT, _VISIBLE = 0.2, 8.0
TARGETS_HIDDEN = Issue('targets_hidden',
                       'thermal shows warm targets that the fused image does not show')


@dataclass(frozen=True)
class Target:
    """A warm spot: the part of the image around it, masks of its own and of the cool pixels."""

    part: tuple[slice, slice]
    inside: np.ndarray
    around: np.ndarray

    def contrast(self, gray: np.ndarray) -> tuple[float, float]:
        """Measure the target in an image.

        Args:
            gray: h x w uint8.

        Returns:
            Mean of the target minus that of its surround, and the deviation of the surround.
        """
        part = gray[self.part]
        mean, deviation = cv2.meanStdDev(part, mask=self.around)
        return cv2.mean(part, self.inside)[0] - mean.item(), deviation.item()


def hidden_targets(thermal: np.ndarray, fused: np.ndarray) -> int:
    """Count the warm targets without contrast in the fused image.

    Args:
        thermal: h x w uint8, white-hot.
        fused: luminance of the fused image, the same size.

    Returns:
        Their number.
    """
    count = 0
    for target in warm_targets(thermal):
        warmth, clutter = target.contrast(thermal)
        if warmth >= max(_WARMER, _CLEARER * clutter):
            count += abs(target.contrast(fused)[0]) < max(_LEFT * warmth, _VISIBLE)
    return count


def warm_targets(thermal: np.ndarray) -> list[Target]:
    """Return the largest warm spots of a thermal thumbnail.

    Args:
        thermal: h x w uint8, white-hot.

    Returns:
        The targets, the largest first.
    """
    if min(thermal.shape) < _LEAST_SIDE:
        return []
    warm = cv2.compare(cv2.subtract(thermal, cv2.blur(thermal, _SURROUND)), _WARMER, cv2.CMP_GT)  # type: ignore[call-overload]
    _, labels, spots, _ = cv2.connectedComponentsWithStats(warm, ltype=cv2.CV_16U)
    targets = []
    for label in np.argsort(-spots[1:, cv2.CC_STAT_AREA])[:2 * _MOST_TARGETS] + 1:
        x, y, across, down, area = spots[label].tolist()
        if not _LEAST_PIXELS <= area <= _LARGEST_SHARE * thermal.size:
            continue
        margin = max(2, (across + down) // 4)
        part = np.s_[max(0, y - margin):y + down + margin, max(0, x - margin):x + across + margin]
        around = cv2.bitwise_not(warm[part])
        if cv2.countNonZero(around) >= _LEAST_PIXELS:
            targets.append(Target(part, cv2.compare(labels[part], int(label), cv2.CMP_EQ), around))  # type: ignore[call-overload]
    return targets[:_MOST_TARGETS]
