# SPDX-License-Identifier: Apache-2.0
"""Crops for training: a function of seed and iteration, both cameras alike, with their targets."""

import multiprocessing
import os
import re
import signal
import threading
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

from diffmf_ros.io.folders import LumaPair
from diffmf_ros.tools.training import data
from diffmf_ros.tools.training.data import (
    Batch,
    CropSampler,
    DataError,
    Degradations,
    in_processes,
    makers_for,
)

NONE = Degradations(**{field.name: 0.0 for field in fields(Degradations)})
NAMES = [field.name for field in fields(Batch)]


def texture(seed, *, low=20, high=235):
    """Smooth 80 x 96 uint8."""
    noise = np.random.default_rng(seed).standard_normal((80, 96))
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return cv2.normalize(smooth, None, low, high, cv2.NORM_MINMAX).astype(np.uint8)


PAIRS = [LumaPair('a', texture(1), texture(2)), LumaPair('b', texture(3), texture(4))]


def same(first, second):
    """Whether two batches are equal, bit by bit."""
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in NAMES)


def test_batch_follows_seed_and_iteration():
    """A batch is a function of seed and iteration."""
    # Given samplers that were asked for other batches before,
    first, again, other = (CropSampler(PAIRS, crop=32, batch=3, seed=seed) for seed in (1, 1, 2))
    first.batch(0)
    # then an iteration is the same for a seed, and another one for other seeds and iterations.
    assert same(first.batch(7), again.batch(7))
    assert not same(first.batch(7), first.batch(8))
    assert not same(first.batch(7), other.batch(7))


def test_batches_from_processes_in_order():
    """Batches that processes make ahead are those of their iterations, in order."""
    # given a sampler that two processes share
    sampler = CropSampler(PAIRS, crop=32, batch=2, seed=3)
    batches = in_processes(sampler, first=4, end=13, makers=2)
    # then every batch is what this process alone makes
    found = [batch.mapped(np.copy) for batch in batches]
    assert len(found) == 9
    assert all(same(batch, sampler.batch(4 + i)) for i, batch in enumerate(found))
    # and none of them is left behind
    assert not multiprocessing.active_children()


@pytest.mark.parametrize('cores, processes, makers', [
    (1, 1, 1), (4, 1, 3), (64, 1, 16), (64, 8, 7), (16, 8, 1), (4, 8, 1)])
def test_processes_share_cores(monkeypatch, cores, processes, makers):
    """Processes share the CPUs that they may use, and each leaves one for its training."""
    monkeypatch.setattr(data, 'cores', lambda: cores)

    assert makers_for(processes) == makers


def test_lost_maker_ends_the_batches():
    """A training whose batches nobody makes any more says so, and leaves no process behind."""
    batches = in_processes(CropSampler(PAIRS, crop=32, batch=2, seed=3), first=0, end=99, makers=1)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match='one of 1 processes that make batches has ended'):
        list(batches)
    assert not multiprocessing.active_children()


def test_closed_batches_leave_nothing_running():
    """A training that stops early leaves no thread and no process, and Ctrl-C is for it alone."""
    # Given fewer images to clean than processes, so that making batches starts the second one,
    threads = set(threading.enumerate())
    batches = in_processes(CropSampler(PAIRS[:1], crop=32, batch=2, seed=3), first=0, end=99,
                           makers=2)
    next(batches)
    # then each has had SIGINT blocked from its start,
    makers = multiprocessing.active_children()
    assert len(makers) == 2
    for maker in makers:
        status = Path(f'/proc/{maker.pid}/status').read_text()
        assert int(re.search(r'SigBlk:\s*(\w+)', status)[1], 16) >> signal.SIGINT - 1 & 1
    # and closing ends them.
    batches.close()
    assert not multiprocessing.active_children()
    assert set(threading.enumerate()) <= threads


def test_batch_images_have_crop_size():
    """Every image of a batch has the size of the crop and its range."""
    batch = CropSampler(PAIRS, crop=32, batch=3, seed=0).batch(5)
    for name in NAMES:
        image = getattr(batch, name)
        assert (image.shape, image.dtype) == ((3, 1, 32, 32), np.float32), name
        assert image.min() >= 0 and image.max() <= 1, name


def test_cameras_augmented_alike():
    """Both cameras are cropped scaled and mirrored alike."""
    # Given a thermal image that is the negative of the visible one,
    image = texture(1)
    sampler = CropSampler([LumaPair('p', image, 255 - image)], crop=24, batch=6, seed=3,
                          degradations=NONE)
    # then so are their crops, which are those of one image and none of them like another.
    batch = sampler.batch(11)
    assert np.allclose(batch.ir + batch.vi_y, 1, atol=1e-5)
    assert len({crop.tobytes() for crop in batch.ir}) == 6


def test_undegraded_input_equals_target_source():
    """Without degradations the network gets what the target is made of."""
    batch = CropSampler(PAIRS, crop=32, batch=4, seed=0, degradations=NONE).batch(0)
    assert np.array_equal(batch.ir, batch.clean_ir)
    assert np.array_equal(batch.vi_y, batch.clean_y)


def with_and_without(**chances):
    """The same batch with degradations of these chances and without any, both unmirrored alike."""
    chances = Degradations(**{field.name: chances.get(field.name, 0.0)
                              for field in fields(Degradations)})
    other, plain = (CropSampler(PAIRS, crop=32, batch=1, seed=0, degradations=d).batch(3)
                    for d in (chances, NONE))
    same = np.array_equal(other.clean_y, plain.clean_y)
    return other, plain if same else plain.mapped(lambda image: image[..., ::-1])


def test_thermal_noise_in_input_only():
    """Thermal noise is in what the network gets and nowhere else."""
    noisy, plain = with_and_without(thermal_noise=1.0)
    assert not np.array_equal(noisy.ir, noisy.clean_ir)
    for name in ('vi_y', 'clean_ir', 'clean_y', 'target', 'warm', 'share'):
        assert np.array_equal(getattr(noisy, name), getattr(plain, name)), name


def test_visible_noise_with_visible_base():
    """Visible noise stays in the target as far as its base is visible."""
    noisy, plain = with_and_without(visible_noise=1.0)
    noise = noisy.vi_y - noisy.clean_y
    assert noise.std() > 1e-3
    expected = np.clip(plain.target + (1 - plain.share) * noise, 0, 1)
    np.testing.assert_allclose(noisy.target, expected, atol=1e-6)
    for name in ('ir', 'clean_ir', 'clean_y', 'warm', 'share'):
        assert np.array_equal(getattr(noisy, name), getattr(plain, name)), name


def test_flat_thermal_targets_visible():
    """The target of flat thermal is the visible image."""
    chances = Degradations(**{**{field.name: 0.0 for field in fields(Degradations)},
                              'flat_thermal': 1.0})
    batch = CropSampler(PAIRS, crop=32, batch=4, seed=0, degradations=chances).batch(0)
    assert np.abs(batch.target - batch.vi_y).max() < 1 / 255
    assert not batch.warm.any() and not batch.share.any()


def test_too_large_crop_is_refused():
    """Crop larger than every image is refused."""
    with pytest.raises(DataError, match='smaller than the crop of 128'):
        CropSampler(PAIRS, crop=128, batch=1, seed=0)


def test_too_small_images_are_left_out():
    """Images smaller than the crop are left out."""
    small = LumaPair('small', np.zeros((80, 30), np.uint8), np.full((80, 30), 255, np.uint8))
    batch = CropSampler([small, *PAIRS], crop=32, batch=16, seed=0, degradations=NONE).batch(0)
    assert all(np.ptp(crop) > 0.05 for crop in batch.ir)


def test_batch_mapped_per_array():
    """A batch is mapped array by array."""
    batch = CropSampler(PAIRS, crop=32, batch=1, seed=0).batch(0)
    doubled = batch.mapped(lambda array: 2 * array)
    assert all(np.array_equal(getattr(doubled, name), 2 * getattr(batch, name)) for name in NAMES)


def test_changed_degradations_equal_fresh_sampler():
    """A sampler with other degradations is one that was made with them."""
    usual = CropSampler(PAIRS, crop=32, batch=2, seed=4)
    before = usual.batch(6)
    without = usual.with_degradations(NONE)
    made = CropSampler(PAIRS, crop=32, batch=2, seed=4, degradations=NONE)
    assert same(without.batch(6), made.batch(6))
    assert same(usual.batch(6), before)
