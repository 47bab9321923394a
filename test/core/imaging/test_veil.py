# SPDX-License-Identifier: Apache-2.0
"""Veil map: thermal shows through where RGB is bright and empty, and nowhere else."""

import cv2
import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.imaging.stream_filters import (
    MOST,
    UNSEEN,
    VeilMonitor,
    show_through,
    veil_map,
)
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

HEIGHT, WIDTH = 120, 160


def texture(level, *, sigma, height=HEIGHT, width=WIDTH, seed=0):
    """Blobs of some six pixels around a level, as buildings and people have them."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.uint8(np.clip(np.rint(level + sigma * smooth / smooth.std()), 0, 255))


@pytest.mark.parametrize('luma, thermal', [
    (texture(150, sigma=20), texture(90, sigma=15, seed=1)),  # clear RGB
    (texture(20, sigma=0.5), texture(90, sigma=15, seed=1)),  # night
    (texture(180, sigma=0.5), texture(90, sigma=0.5, seed=1)),  # thermal is empty too
])
def test_clear_scenes_have_no_veil(luma, thermal):
    """Clear, dark and empty scenes have no veil."""
    assert veil_map(thermal, luma) is None


def test_fog_asks_for_most_of_thermal():
    share = veil_map(texture(90, sigma=15), texture(180, sigma=0.5))

    assert share.shape == (HEIGHT // 4, WIDTH // 4)
    assert share.min() > 0.95 * MOST and share.max() <= MOST + 1e-6


def test_smoke_on_one_side_stays_there():
    """The left third is in smoke: thermal there, less than a tenth of it in the right third."""
    luma = texture(150, sigma=20)
    luma[:, :WIDTH // 3] = 190

    share = veil_map(texture(90, sigma=15), luma)

    assert share[:, :6].min() > 0.5 * MOST
    assert share[:, -WIDTH // 12:].max() < 0.1 * MOST


def test_clear_sky_is_no_veil():
    """A bright empty sky, cold and empty in thermal, is no veil unless there is fog below it."""
    thermal, luma = texture(90, sigma=15), texture(180, sigma=0.5)
    sky = np.s_[:2 * HEIGHT // 3]
    thermal[sky] = texture(20, sigma=0.5, seed=1)[sky]
    clear = texture(150, sigma=20)
    clear[sky] = luma[sky]

    assert veil_map(thermal, clear) is None
    assert veil_map(thermal, luma)[HEIGHT // 8].min() > 0.5 * MOST


def test_nothing_shows_outside_thermal():
    """Nothing shows where thermal does not see."""
    seen = np.ones((HEIGHT, WIDTH), bool)
    seen[:, :40] = False

    share = veil_map(texture(90, sigma=15), texture(180, sigma=0.5), seen)

    assert share[:, :10].max() == 0 and share[:, 12:].min() > 0.95 * MOST


@pytest.mark.parametrize('shape', [(48, 64), (48, 64, 3), (47, 61, 3)])
def test_mixing_is_by_share(shape):
    image, thermal = np.full(shape, 200, np.uint8), np.full(shape, 100, np.uint8)

    mixed = show_through(image, thermal, np.full((12, 16), 0.5, np.float32))

    assert mixed.shape == shape and np.all(mixed == 150)
    assert np.all(image == 200) and np.all(thermal == 100)


@pytest.mark.parametrize('most', [0.0018, 0.3])
def test_mixing_part_equals_whole(most):
    """A veil in one corner, which is mixed alone, gives what mixing the whole image gives."""
    image, thermal = (texture(128, sigma=90, height=96, width=128, seed=i) for i in (1, 2))
    share = np.zeros((24, 32), np.float32)
    share[4:10, 3:17] = np.linspace(0, most, 14)
    whole = cv2.resize(share, (128, 96), interpolation=cv2.INTER_LINEAR)

    mixed = show_through(image, thermal, share)

    assert np.array_equal(mixed, cv2.blendLinear(image, thermal, 1 - whole, whole))
    assert np.array_equal(mixed, image) == (most <= UNSEEN)


@pytest.mark.parametrize('color', ['keep_chroma', 'gray', 'inferno'])
@pytest.mark.parametrize('grid', [RGB, THERMAL])
def test_fog_shows_mostly_thermal(color, grid):
    """In fog without any structure the node's image lies MOST of the way to thermal's."""
    thermal = texture(90, sigma=15, height=240, width=320)
    fog = texture(190, sigma=0.5, height=480, width=640, seed=1)

    def pipeline(detect):
        return FusionPipeline(with_changes(DEFAULTS, {
            'model': 'classical', 'health.detect_blind': detect, 'output.color': color,
            'alignment.output_grid': grid}))

    pair = Pair(Frame(RGB, 1, 'rgb', cv2.merge([fog] * 3), 'rgb8'),
                Frame(THERMAL, 1, 'thermal', thermal, 'mono8'), 0)
    bare, veiled = (pipeline(detect).fuse(pair).pixels.astype(float) for detect in (False, True))
    white = Pair(Frame(RGB, 1, 'rgb', np.full((480, 640, 3), 255, np.uint8), 'rgb8'),
                 pair.thermal, 0)
    alone = pipeline(True).fuse(white).pixels.astype(float)  # thermal passes, RGB is blind

    assert np.abs(veiled - alone).mean() < 1.1 * (1 - MOST) * np.abs(bare - alone).mean()


def test_map_of_a_stream_follows_in_a_second():
    """Fog after a clear view: 1 - 1/e of the map a second later, then all of it."""
    monitor, thermal = VeilMonitor(), texture(90, sigma=15)
    clear, fog = texture(150, sigma=20), texture(180, sigma=0.5)
    monitor(thermal, clear, stamp_ns=1)

    shares = [monitor(thermal, fog, stamp_ns=1 + 100_000_000 * step) for step in range(1, 61)]

    alone = veil_map(thermal, fog)
    assert np.allclose(shares[9], (1 - np.exp(-1)) * alone, atol=0.01)
    assert np.allclose(shares[-1], alone, atol=0.01)


@pytest.mark.parametrize('stamp_ns', [0, 1_100_000_001, 1])
def test_map_without_a_stream_stands_alone(stamp_ns):
    """No time, a gap of more than a second, a time that is not later."""
    monitor, thermal, fog = VeilMonitor(), texture(90, sigma=15), texture(180, sigma=0.5)
    monitor(thermal, texture(150, sigma=20), stamp_ns=1)

    assert np.array_equal(monitor(thermal, fog, stamp_ns=stamp_ns), veil_map(thermal, fog))


def test_map_fades_to_none_behind_the_fog():
    monitor, thermal = VeilMonitor(), texture(90, sigma=15)
    monitor(thermal, texture(180, sigma=0.5), stamp_ns=1)

    shares = [monitor(thermal, texture(150, sigma=20), stamp_ns=1 + 100_000_000 * step)
              for step in range(1, 61)]

    assert 0.3 * MOST < shares[9].max() < 0.4 * MOST and shares[-1] is None
