# SPDX-License-Identifier: Apache-2.0
"""Who of the people in a picture stands out from the surround: contrast, from the truth of a
drive.

The contrast of a person is the mean of its pixels minus the mean of a ring around it, in gray
levels. Its sign does not count: a dark walker on snow is seen as well as a bright one by night.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .drive import ActorTruth, DriveTruth

PEOPLE = ('person', 'cyclist')
# A person is judged from this height on, and when at least this share of the silhouette is not
# hidden; smaller and more hidden ones are ignored: neither found nor missed.
MIN_HEIGHT_PX = 45
MIN_VISIBLE_SHARE = 0.5
# From this |contrast| on a person counts as seen: about the standard deviation of noise and
# texture in the ring around people in the RGB image (21 levels in the night drive, 22 at dusk). A
# person that differs by less from its surround than the surround differs from itself goes under.
VISIBLE_LEVELS = 20.0
# The ring keeps clear of the outline, where blur and parallax mix person and surround, and of
# other actors.
RING_GAP_PX, RING_WIDTH_PX = 2, 8


@dataclass(frozen=True)
class Sighting:
    """One person in several pictures of one instant.

    It holds the truth, and the contrast in each picture, in gray levels.
    """

    actor: ActorTruth
    contrasts: tuple[float, ...]

    @property
    def seen(self) -> tuple[bool, ...]:
        """Whether the person stands out, picture by picture."""
        return tuple(abs(contrast) >= VISIBLE_LEVELS for contrast in self.contrasts)


def counts(actor: ActorTruth) -> bool:
    """Tell whether an actor is a person tall and unhidden enough to be judged."""
    return (actor.kind in PEOPLE and actor.box_px[3] - actor.box_px[1] >= MIN_HEIGHT_PX
            and actor.visible_px >= MIN_VISIBLE_SHARE * actor.silhouette_px)


def contrast(image: np.ndarray, inside: np.ndarray, *, others: np.ndarray | None = None) -> float:
    """Return the contrast of a region: its mean minus the mean of the ring around it.

    Args:
        image: H x W, gray levels.
        inside: H x W bool, the region, not empty.
        others: H x W bool, what the ring leaves out besides the region.

    Returns:
        Gray levels; 0 when the ring is empty.
    """
    taken = inside if others is None else inside | others
    ring = _grown(inside, RING_GAP_PX + RING_WIDTH_PX) & ~_grown(taken, RING_GAP_PX)
    return float(image[inside].mean() - image[ring].mean()) if ring.any() else 0.0


def sightings(truth: DriveTruth, *images: np.ndarray) -> list[Sighting]:
    """Judge every person that counts in pictures of the instant of a truth.

    Args:
        truth: labels and actors on the RGB grid.
        images: pictures on that grid, H x W gray or H x W x 3 R G B, uint8; of color, the
            luminance counts.

    Raises:
        ValueError: a picture has another size than the labels.
    """
    for image in images:
        if image.shape[:2] != truth.labels.shape:
            raise ValueError(f'expected pictures of the size of the labels {truth.labels.shape}, '
                             f'got {image.shape[:2]}')
    gray = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            for image in images]
    reach, found = RING_GAP_PX + RING_WIDTH_PX + 1, []
    for actor in filter(counts, truth.actors):
        left, top, right, bottom = actor.box_px
        near = np.s_[max(top - reach, 0):bottom + reach, max(left - reach, 0):right + reach]
        labels = truth.labels[near]
        contrasts = (contrast(image[near], labels == actor.label, others=labels > 0)
                     for image in gray)
        found.append(Sighting(actor, tuple(contrasts)))
    return found


def _grown(mask: np.ndarray, by_px: int) -> np.ndarray:
    side = 2 * by_px + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
