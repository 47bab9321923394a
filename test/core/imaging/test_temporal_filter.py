# SPDX-License-Identifier: Apache-2.0
"""Temporal filter: calm where nothing moves, unchanged where something does."""

import numpy as np
import pytest

from diffmf_ros.core.frames import RGB, THERMAL, Frame, Pair
from diffmf_ros.core.imaging.stream_filters import TemporalFilter
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.inference.pipeline import FusionPipeline

FRAME_NS = 33_333_333


def noisy(scene, number, *, sigma):
    noise = np.random.default_rng(number).normal(0, sigma, scene.shape)
    return np.clip(np.rint(scene + noise), 0, 255).astype(np.uint8)


def change(images):
    return np.mean([np.abs(b.astype(float) - a).mean() for a, b in zip(images, images[1:])])


@pytest.mark.parametrize('shape', [(48, 64), (48, 64, 3), (47, 61, 3)])
@pytest.mark.parametrize('keep, ratio', [(0.5, 0.41), (0.8, 0.18)])
def test_noise_at_rest_follows_theory(shape, keep, ratio):
    """Noise at rest calms as theory says.

    White noise through an average of share k = 1 - keep changes by k / sqrt(2 - k) as much.
    """
    scene, filtered = np.full(shape, 100.0), TemporalFilter()
    images = [noisy(scene, n, sigma=3) for n in range(40)]

    calm = [filtered(im, stamp_ns=n * FRAME_NS, keep=keep) for n, im in enumerate(images)]

    assert change(calm[10:]) / change(images[10:]) == pytest.approx(ratio, abs=0.06)
    assert np.mean(calm[-1]) == pytest.approx(100, abs=0.3)


def test_motion_leaves_no_trail():
    """A square 30 levels brighter moves by its own width: two levels at its old corners are all.
    """
    filtered = TemporalFilter()
    for step in range(4):
        image = np.full((96, 128), 90, np.uint8)
        image[40:56, 16 * step:16 * step + 16] = 120
        result = filtered(image, stamp_ns=step * FRAME_NS, keep=0.8)

    trail = np.abs(result.astype(int) - image)
    assert trail.max() <= 2 and (trail > 0).sum() <= 16


@pytest.mark.parametrize('stamp_ns, shape', [(600_000_000, (32, 32)), (-1, (32, 32)),
                                             (FRAME_NS, (32, 40))])
def test_other_stream_starts_anew(stamp_ns, shape):
    """A gap, a jump back and another size: the image passes as it is."""
    filtered = TemporalFilter()
    filtered(np.full((32, 32), 100, np.uint8), stamp_ns=0, keep=0.5)
    image = np.full(shape, 101, np.uint8)

    assert np.array_equal(filtered(image, stamp_ns=stamp_ns, keep=0.5), image)


def test_disabled_filter_returns_same_image():
    """Switched off it returns the image itself."""
    filtered, image = TemporalFilter(), np.full((8, 8), 5, np.uint8)

    assert filtered(image, stamp_ns=0, keep=0) is image


def test_images_are_not_changed():
    """What came in and what went out earlier stay as they were."""
    filtered = TemporalFilter()
    images = [noisy(np.full((32, 32), 100.0), n, sigma=3) for n in range(3)]
    copies = [im.copy() for im in images]
    results = [filtered(im, stamp_ns=n * FRAME_NS, keep=0.5) for n, im in enumerate(images)]
    kept = [result.copy() for result in results]
    filtered(images[0], stamp_ns=3 * FRAME_NS, keep=0.5)

    assert all(np.array_equal(a, b) for a, b in zip(images + results, copies + kept))


@pytest.mark.parametrize('keep, least, most', [(0.0, 0.99, 1.01), (0.5, 0.2, 0.6)])
def test_pipeline_filters_what_it_fuses(keep, least, most):
    """Noise of RGB between fused images, over that without the filter: unchanged, or calmer."""
    def fused(keep):
        pipeline = FusionPipeline(with_changes(DEFAULTS, {
            'model': 'classical', 'health.detect_blind': False,
            'output.temporal_filter': keep}))
        thermal = np.tile(np.linspace(60, 90, 64).astype(np.uint8), (48, 1))
        scene = np.tile(np.linspace(80, 120, 64)[None, :, None], (48, 1, 3))
        return [pipeline.fuse(Pair(
            Frame(RGB, n * FRAME_NS, 'rgb', noisy(scene, n, sigma=2), 'rgb8'),
            Frame(THERMAL, n * FRAME_NS, 'thermal', thermal, 'mono8'), 0)).pixels
            for n in range(12)]

    assert least < change(fused(keep)[4:]) / change(fused(0.0)[4:]) < most
