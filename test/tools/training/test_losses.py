# SPDX-License-Identifier: Apache-2.0
"""The inherited terms of the loss and those of the target, against numbers."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.tools.training import losses  # noqa: E402
from diffmf_ros.tools.training.data import Batch  # noqa: E402
from diffmf_ros.tools.training.losses import (  # noqa: E402
    LEVEL,
    PRESETS,
    SOFTNESS,
    TERMS,
    LossWeights,
    fusion_loss,
    magnitude,
    sobel,
)

SIDE = 64


def levels(image, dtype=torch.float32):
    """H x W gray levels 0..255 as 1 x 1 x H x W in [0, 1]."""
    return torch.from_numpy(np.asarray(image, np.float64) / 255)[None, None].to(dtype)


def textured(seed, *, side=SIDE, sigma=1.5):
    """A blurred random texture: side x side float64, 20..235."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 20, 235, cv2.NORM_MINMAX)


def ramp(slope, *, start=0.0, side=SIDE):
    """Gray levels that rise by slope a pixel to the right."""
    return np.tile(start + slope * np.arange(side), (side, 1))


@pytest.fixture
def scene():
    """Thermal, visible and fused texture, each of its own; 1 x 1 x 64 x 64, float64."""
    return [levels(textured(seed), torch.float64) for seed in (1, 2, 3)]


def inherited(fused, ir, vi):
    """The terms of SwinFusion in numpy and OpenCV, for H x W float64 in [0, 1]."""
    def slope(image):
        return sum(np.abs(cv2.Sobel(image, cv2.CV_64F, *d, borderType=cv2.BORDER_CONSTANT))
                   for d in ((1, 0), (0, 1)))

    def mean(image):
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    def ssim(a, b):
        mean_a, mean_b = mean(a), mean(b)
        variances, cov = mean(a * a) - mean_a ** 2 + mean(b * b) - mean_b ** 2, mean(
            a * b) - mean_a * mean_b
        return np.mean((2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
                       / ((mean_a ** 2 + mean_b ** 2 + 1e-4) * (variances + 9e-4)))

    share = slope(ir).mean() / (slope(ir).mean() + slope(vi).mean())
    return {'intensity': np.abs(fused - np.maximum(ir, vi)).mean(),
            'gradient': np.abs(slope(fused) - np.maximum(slope(ir), slope(vi))).mean(),
            'ssim': 1 - share * ssim(ir, fused) - (1 - share) * ssim(vi, fused)}


def test_defaults_are_ancestors_loss(scene):
    """Defaults are the loss of the ancestors."""
    # Given three textures, when no weight is named,
    ir, vi, fused = scene
    terms = fusion_loss(fused, ir, vi)
    expected = inherited(*(x[0, 0].numpy() for x in (fused, ir, vi)))
    # then the terms are the inherited ones; only intensity is rounded off, by less than SOFTNESS.
    assert terms.keys() == {'total', *expected}
    assert 0 < expected['intensity'] - terms['intensity'].item() < SOFTNESS
    for name in ('gradient', 'ssim'):
        assert terms[name].item() == pytest.approx(expected[name], rel=1e-9)
    assert terms['total'].item() == pytest.approx(
        20 * terms['intensity'].item() + 20 * expected['gradient'] + 10 * expected['ssim'],
        rel=1e-9)


@pytest.mark.parametrize('name', TERMS)
def test_zero_weight_term_not_computed(scene, monkeypatch, name):
    """Term of weight zero is not computed."""
    def refuse(*_):
        raise AssertionError(f'{name} was computed')
    monkeypatch.setitem(TERMS, name, refuse)
    others = {term: 0.0 if term == name else 1.0 for term in TERMS}
    ir, vi, fused = scene
    terms = fusion_loss(fused, ir, vi, LossWeights(**others))
    assert terms.keys() == {'total', *TERMS} - {name}
    assert terms['total'].item() == pytest.approx(sum(terms[term].item() for term in terms
                                                      if term != 'total'))


def test_least_at_equal_maximum():
    """Loss is least at the maximum of equal images."""
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    terms = fusion_loss(image, image, image)
    assert all(abs(term.item()) < 1e-4 for term in terms.values())
    assert fusion_loss(image * 0.5, image, image)['total'] > 5


def test_sobel_step_direction():
    """Sobel of a step has its direction."""
    image = torch.zeros(1, 1, 5, 6)
    image[..., 3:] = 1
    along_x, along_y = sobel(image)[0, :, 2].tolist()
    assert along_x == [0, 0, 4, 4, 0, -4]  # the last one is the zero padding
    assert along_y == [0] * 6
    assert magnitude(sobel(image))[0, 0, 2].tolist() == [0, 0, 4, 4, 0, 4]
    assert magnitude(sobel(image))[0, 0, 0].tolist() == [0, 0, 4, 6, 4, 6]


def test_ssim_of_self_and_negative():
    """SSIM of an image with itself and with its negative."""
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert losses.ssim(image, image).item() == pytest.approx(1, abs=1e-5)
    assert losses.ssim(image, 1 - image).item() < 0


@pytest.mark.parametrize('distance', [0.0, 0.1 * SOFTNESS, 50 * SOFTNESS])
def test_intensity_quadratic_then_linear(distance):
    """Intensity is quadratic near the brighter source and linear far from it."""
    ir, vi = torch.full((2, 1, 1, 8, 8), 0.25, dtype=torch.float64)
    ir[..., :4] = 0.5
    value = losses.intensity(torch.maximum(ir, vi) - distance, ir, vi).item()
    expected = distance ** 2 / (2 * SOFTNESS) if distance < SOFTNESS else distance - SOFTNESS
    assert value == pytest.approx(expected, rel=0.011)


FLAT = {'black': np.zeros((SIDE, SIDE)), 'white': np.full((SIDE, SIDE), 255.0),
        'gray': np.full((SIDE, SIDE), 90.0), 'textured': textured(1)}


@pytest.mark.parametrize('name', TERMS)
def test_gradients_finite_for_dull_images(name):
    """Gradient of every term is finite for dull images."""
    for ir in FLAT.values():
        for vi in FLAT.values():
            # with sources equal to it and sources that are not
            for image in (*FLAT.values(), textured(2)):
                fused = levels(image).requires_grad_()
                value = TERMS[name](fused, levels(ir), levels(vi))
                value.backward()
                assert torch.isfinite(value) and torch.isfinite(fused.grad).all()


TARGET = LossWeights(intensity=0, gradient=0, ssim=0, target=30, warm=3, target_ssim=5,
                     target_edges=10, share=3)
LOGIT = 4.0


@pytest.fixture
def pair():
    """Sources of three stripes each, and their target.

    The batch of a training, 1 x 1 x 64 x 96, float64.

    From left to right: thermal is flat, both have structure, visible is flat. The target has the
    visible structure, the thermal one, and the thermal one.
    """
    texture = [textured(seed, side=96)[:64] for seed in (1, 2)]
    ir, vi_y = texture
    ir[:, :32], vi_y[:, 64:] = 60, 190
    target = np.hstack((vi_y[:, :32], ir[:, 32:]))
    warm, share = np.zeros((64, 96)), np.zeros((64, 96))
    warm[20:40, 40:50], share[:, 32:] = 255, 255
    ir, vi_y, target, warm, share = (levels(x, torch.float64)
                                     for x in (ir, vi_y, target, warm, share))
    return Batch(ir, vi_y, ir, vi_y, target, warm, share)


def terms_of(fused, batch, weights=TARGET, *, share=None):
    """The terms of the target; the share is right, with certainty, unless it is given."""
    certain = 200 * (batch.share - 0.5)
    return fusion_loss(fused, batch.ir, batch.vi_y, weights, batch=batch,
                       share=certain if share is None else share)


def test_target_preset_has_five_terms(pair):
    """Preset of the target has its five terms."""
    terms = terms_of(pair.target, pair, PRESETS['target'])
    assert terms.keys() == {'total', 'target', 'target_ssim', 'target_edges', 'contrast', 'share'}


def test_target_terms_zero_at_target(pair):
    """Terms of the target are zero at the target and nowhere else."""
    # Given structure in one camera alone, where the target has that camera's edges,
    left, right = np.s_[..., :24], np.s_[..., 72:]
    for part in (left, right):
        cut = Batch(*(getattr(pair, name)[part] for name in Batch.__dataclass_fields__))
        # then every term is zero at the target,
        at_target = terms_of(cut.target, cut)
        assert all(term.item() == pytest.approx(0, abs=1e-9) for term in at_target.values())
        # and greater for what is brighter, and for what is not there.
        for other in (cut.target + 0.1, torch.full_like(cut.target, 0.5)):
            terms = terms_of(other, cut)
            assert terms['target'].item() > 0.05 and terms['target_ssim'].item() > 0.001
            assert terms['total'].item() == pytest.approx(
                30 * terms['target'].item() + 5 * terms['target_ssim'].item() + 10
                * terms['target_edges'].item())


def test_warm_objects_weigh_more(pair):
    """Warm objects count more by their weight."""
    # Given an error of 0.2 on the warm object, and the same on as many pixels elsewhere,
    on, off = pair.target + 0.2 * pair.warm, pair.target + 0.2 * pair.warm.roll(40, dims=3)
    # then it costs four times as much where it is warm, and the same without that weight.
    price = {
        warm: [terms_of(fused, pair,
                        LossWeights(intensity=0, gradient=0, ssim=0, target=1, warm=warm))[
        'target'].item() for fused in (on, off)] for warm in (0, 3)}
    assert price[0][0] == pytest.approx(price[0][1])
    assert price[0][0] == pytest.approx((0.2 - SOFTNESS) * 200 / (64 * 96), rel=1e-2)
    assert price[3] == pytest.approx([4 * price[0][0], price[0][1]])


@pytest.mark.parametrize('person, lost',
                         [(0.7, 0.0), (0.9, 0.0), (0.1, 0.0), (0.6, 0.1), (0.4, 0.3),
                                          (0.3, 0.2)])
def test_lost_contrast_knows_no_sign(pair, person, lost):
    # Given a warm person of 0.7 on a ground of 0.4 in the target,
    def image(level):
        return 0.4 + (level - 0.4) * pair.warm

    batch = replace(pair, target=image(0.7))
    # then one who is as bright, brighter, or as much darker loses nothing, and gray does.
    terms = terms_of(image(person), batch,
                     LossWeights(intensity=0, gradient=0, ssim=0, contrast=1))
    assert terms['contrast'].item() == pytest.approx(lost, rel=0.25, abs=1e-3)


def test_nothing_warm_loses_no_contrast(pair):
    batch = replace(pair, warm=torch.zeros_like(pair.warm))
    fused = torch.zeros_like(pair.target).requires_grad_()
    value = losses.lost_contrast(fused, batch)
    value.backward()
    assert value.item() == 0 and fused.grad.abs().max() == 0


@pytest.mark.parametrize('columns, better, worse', [
    (np.s_[6:22], 'vi_y', 'ir'),  # thermal is flat
    (np.s_[74:90], 'ir', 'vi_y'),  # visible is flat
    (np.s_[38:58], 'target', 'vi_y')])  # neither is
def test_edges_of_structured_camera(pair, columns, better, worse):
    """Edges are those of the camera that has structure."""
    # Given a batch whose target itself is flat, but in the middle,
    flat = Batch(pair.ir, pair.vi_y, pair.ir, pair.vi_y, pair.target.clone(), pair.warm,
                 pair.share)
    flat.target[..., :32] = flat.target[..., 64:] = 0.5
    # when either camera's image is what was fused,
    cost = {}
    for name in {better, worse}:
        fused = getattr(flat, name).clone().requires_grad_()
        losses.target_edges(fused, flat).backward()
        cost[name] = fused.grad[..., 6:-6, columns].abs().sum().item()
    # then nothing pulls at the better one and something at the other.
    assert cost[better] == 0
    assert cost[worse] > 1e-3


def test_visible_edges_beat_thermal_noise():
    """Faint visible edges are wanted where thermal is only noise."""
    # Given flat thermal with noise of a level and visible that rises by half a level a pixel,
    ir = levels(60 + np.random.default_rng(0).standard_normal((SIDE, SIDE)), torch.float64)
    vi = levels(ramp(0.5, start=120), torch.float64)
    target = vi.clone()
    target[..., 4:-4, 4:-4] = 0.5  # it says nothing where a camera is flat
    batch = Batch(ir, vi, ir, vi, target, vi, vi)
    assert all(losses.is_flat(image)[..., 3:-3, 3:-3].all() for image in (ir, vi))
    # then the visible edges are wanted, and neither none nor the noise.
    assert losses.target_edges(vi, batch).item() == 0
    assert losses.target_edges(vi + ir - ir.mean(), batch).item() > 3 * LEVEL
    assert losses.target_edges(vi.mean() + 0 * vi, batch).item() > 3 * LEVEL


@pytest.mark.parametrize('slope, flat', [(0.0, True), (1.9, True), (2.1, False), (-3.0, False)])
def test_flat_source_below_two_levels(slope, flat):
    """A source is flat below two levels a pixel."""
    found = losses.is_flat(levels(ramp(slope, start=128 if slope < 0 else 0)))
    assert found.shape == (1, 1, SIDE, SIDE)
    assert (found[..., 8:-8, 8:-8] == flat).all()


def test_share_is_charged_by_its_logit(pair):
    # Given certain, undecided and wrong shares,
    price = [terms_of(pair.target, pair, share=share)['share'].item() for share in (
        2 * LOGIT * (pair.share - 0.5), 0 * pair.share, 2 * LOGIT * (0.5 - pair.share))]
    # then they cost what cross entropy says.
    assert price == pytest.approx([np.log1p(np.exp(-LOGIT)), np.log(2),
                                   LOGIT + np.log1p(np.exp(-LOGIT))])
