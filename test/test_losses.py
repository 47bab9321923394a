# SPDX-License-Identifier: Apache-2.0
"""Every term of the loss against numbers, and against the metrics that it stands for."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='torch is not installed')

from diffmf_ros.evaluation import metrics  # noqa: E402
from diffmf_ros.training import losses  # noqa: E402
from diffmf_ros.training.losses import LEVEL, SOFTNESS, TERMS, LossWeights, fusion_loss, magnitude, sobel  # noqa: E402

EVERY = LossWeights(intensity=1, gradient=1, edges=1, ssim=1, scd=1, vif=1, detail=1, edge_gain=1.1)
PLAIN = LossWeights()
SIDE = 64


def batch(levels, dtype=torch.float32):
    """H x W grey levels 0..255 as 1 x 1 x H x W in [0, 1]."""
    return torch.from_numpy(np.asarray(levels, np.float64) / 255)[None, None].to(dtype)


def textured(seed, *, side=SIDE, sigma=1.5):
    """A blurred random texture: side x side float64, 20..235."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), sigma), None, 20, 235, cv2.NORM_MINMAX)


def ramp(slope, *, start=0.0, side=SIDE):
    """Grey levels that rise by slope a pixel to the right."""
    return np.tile(start + slope * np.arange(side), (side, 1))


def square(contrast, *, background=127.5, side=SIDE):
    """A square of other brightness in the middle."""
    image = np.full((side, side), background)
    image[side // 4:-side // 4, side // 4:-side // 4] += contrast
    return image


@pytest.fixture
def scene():
    """Thermal, visible and fused texture, each of its own; 1 x 1 x 64 x 64, float64."""
    return [batch(textured(seed), torch.float64) for seed in (1, 2, 3)]


def inherited(fused, ir, vi):
    """The terms of SwinFusion in numpy and OpenCV, for H x W float64 in [0, 1]."""
    def slope(image):
        return sum(np.abs(cv2.Sobel(image, cv2.CV_64F, *d, borderType=cv2.BORDER_CONSTANT)) for d in ((1, 0), (0, 1)))

    def mean(image):
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    def ssim(a, b):
        mean_a, mean_b = mean(a), mean(b)
        variances, cov = mean(a * a) - mean_a ** 2 + mean(b * b) - mean_b ** 2, mean(a * b) - mean_a * mean_b
        return np.mean((2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
                       / ((mean_a ** 2 + mean_b ** 2 + 1e-4) * (variances + 9e-4)))

    share = slope(ir).mean() / (slope(ir).mean() + slope(vi).mean())
    return {'intensity': np.abs(fused - np.maximum(ir, vi)).mean(),
            'gradient': np.abs(slope(fused) - np.maximum(slope(ir), slope(vi))).mean(),
            'ssim': 1 - share * ssim(ir, fused) - (1 - share) * ssim(vi, fused)}


def test_defaults_are_the_loss_of_the_ancestors(scene):
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
        20 * terms['intensity'].item() + 20 * expected['gradient'] + 10 * expected['ssim'], rel=1e-9)


@pytest.mark.parametrize('name', TERMS)
def test_term_of_weight_zero_is_not_computed(scene, monkeypatch, name):
    def refuse(*_):
        raise AssertionError(f'{name} was computed')
    monkeypatch.setitem(TERMS, name, refuse)
    others = {term: 0.0 if term == name else 1.0 for term in TERMS}
    ir, vi, fused = scene
    terms = fusion_loss(fused, ir, vi, LossWeights(**others))
    assert terms.keys() == {'total', *TERMS} - {name}
    assert terms['total'].item() == pytest.approx(sum(terms[term].item() for term in terms if term != 'total'))


def test_loss_is_least_at_the_maximum_of_equal_images():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    terms = fusion_loss(image, image, image)
    assert all(abs(term.item()) < 1e-4 for term in terms.values())
    assert fusion_loss(image * 0.5, image, image)['total'] > 5


def test_sobel_of_a_step_has_its_direction():
    image = torch.zeros(1, 1, 5, 6)
    image[..., 3:] = 1
    along_x, along_y = sobel(image)[0, :, 2].tolist()
    assert along_x == [0, 0, 4, 4, 0, -4]  # the last one is the zero padding
    assert along_y == [0] * 6
    assert magnitude(sobel(image))[0, 0, 2].tolist() == [0, 0, 4, 4, 0, 4]
    assert magnitude(sobel(image))[0, 0, 0].tolist() == [0, 0, 4, 6, 4, 6]


def test_ssim_of_an_image_with_itself_and_with_its_negative():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert losses.ssim(image, image).item() == pytest.approx(1, abs=1e-5)
    assert losses.ssim(image, 1 - image).item() < 0


@pytest.mark.parametrize('distance', [0.0, 0.1 * SOFTNESS, 50 * SOFTNESS])
def test_intensity_is_quadratic_near_the_brighter_source_and_linear_far_from_it(distance):
    ir, vi = torch.full((2, 1, 1, 8, 8), 0.25, dtype=torch.float64)
    ir[..., :4] = 0.5
    value = losses.intensity(torch.maximum(ir, vi) - distance, ir, vi, PLAIN).item()
    expected = distance ** 2 / (2 * SOFTNESS) if distance < SOFTNESS else distance - SOFTNESS
    assert value == pytest.approx(expected, rel=0.011)


@pytest.mark.parametrize('gain', [1.0, 1.25])
def test_edges_is_zero_at_the_source_that_is_stronger_everywhere(gain):
    # Given a steep source and one of a quarter of its contrast, each once as thermal and once as visible,
    strong, weak = batch(ramp(3, start=8), torch.float64), batch(ramp(0.75, start=2), torch.float64)
    weights = LossWeights(edge_gain=gain)
    for ir, vi in ((strong, weak), (weak, strong)):
        # then the steep one, times the gain, is what edges asks for, and the other is far from it.
        assert losses.edges(gain * strong, ir, vi, weights).item() == pytest.approx(0, abs=1e-12)
        expected = (gain - 0.25) * magnitude(sobel(strong)).mean().item()
        assert losses.edges(weak, ir, vi, weights).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('contrast_ir, contrast_vi', [(0, 50), (-80, 25), (80, -25)])
def test_edges_tells_a_bright_edge_from_a_dark_one_where_gradient_cannot(contrast_ir, contrast_vi):
    # Given a square that one source shows best, in the other it is absent or of the opposite polarity,
    ir, vi = (batch(square(contrast), torch.float64) for contrast in (contrast_ir, contrast_vi))
    right = max(ir, vi, key=lambda x: x.var())
    wrong = 1 - right  # same magnitudes, the border included: the background is the middle grey
    # then gradient likes both alike, and edges charges the wrong one twice the gradient inside.
    assert losses.gradient(right, ir, vi, PLAIN).item() == pytest.approx(0, abs=1e-12)
    assert losses.gradient(wrong, ir, vi, PLAIN).item() == pytest.approx(0, abs=1e-12)
    assert losses.edges(right, ir, vi, PLAIN).item() == pytest.approx(0, abs=1e-12)
    inside = magnitude(sobel(right))[..., 1:-1, 1:-1].sum().item() / SIDE ** 2
    assert losses.edges(wrong, ir, vi, PLAIN).item() == pytest.approx(2 * inside, rel=1e-9)


def test_faint_visible_edges_are_kept_where_thermal_is_only_noise():
    # Given flat thermal with noise of 4 levels and visible that rises by half a level a pixel,
    ir = batch(60 + 4 * np.random.default_rng(0).standard_normal((SIDE, SIDE)), torch.float64)
    vi = batch(ramp(0.5, start=120), torch.float64)
    inside = np.s_[..., 1:-1, 1:-1]
    stronger = magnitude(sobel(ir))[inside] > magnitude(sobel(vi))[inside]
    assert stronger.double().mean() > 0.9
    # then gradient takes the noise for edges, and edges asks for the visible ones alone.
    assert losses.gradient(vi, ir, vi, PLAIN).item() > 10 * LEVEL
    assert losses.edges(vi, ir, vi, PLAIN).item() == 0
    assert losses.edges(vi + ir - ir.mean(), ir, vi, PLAIN).item() > 10 * LEVEL


@pytest.mark.parametrize('slope, factor', [(0, 2.0), (1.5, 2.0), (2.5, 1.75), (3, 1.5), (3.9, 1.05), (4.0, 1.0)])
def test_detail_doubles_where_thermal_is_flat_and_fades_out(slope, factor):
    # Given thermal of one slope and stronger visible, when a spot in the middle is wrong,
    ir, vi = batch(ramp(slope), torch.float64), batch(ramp(4).T, torch.float64)
    spot = vi.clone()
    spot[..., 30:34, 30:34] += 0.1
    price = {detail: (losses.edges(spot, ir, vi, LossWeights(detail=detail))
                      - losses.edges(vi, ir, vi, LossWeights(detail=detail))).item() for detail in (0, 1)}
    # then the weight of thermal's flatness there is what detail adds.
    assert price[0] > 0
    assert price[1] == pytest.approx(factor * price[0], rel=1e-6)


@pytest.mark.parametrize('side', [64, 97])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name, metric, tolerance', [('scd', metrics.correlation_of_differences, 8e-3),
                                                     ('vif', metrics.information_fidelity, 1e-4)])
def test_scd_and_vif_are_two_less_the_metric(name, metric, tolerance, dtype, side):
    # Given textures, fused once well and once badly,
    ir, vi, other = textured(1, side=side), textured(2, side=side, sigma=3), textured(3, side=side)
    for fused in (np.maximum(ir, vi), (ir + vi) / 2, 0.3 * vi + 0.7 * other):
        value = TERMS[name](*(batch(x, dtype) for x in (fused, ir, vi)), PLAIN).item()
        # then the softened constants hardly move the value.
        assert value == pytest.approx(2 - metric(ir, vi, fused), abs=tolerance)


def test_scd_and_vif_at_their_best():
    ir, vi = (batch(textured(seed), torch.float64) for seed in (1, 2))
    softened = sum(1 / (1 + (2 * LEVEL) ** 2 / x.var(correction=0).item()) for x in (ir, vi))
    assert losses.complement(ir + vi, ir, vi, PLAIN).item() == pytest.approx(2 - softened, abs=1e-9)
    # VIF_FLAT is half a percent of the noise: log(1 + variance / noise) shrinks by 0.005, of about 6, per source.
    assert losses.information(ir, ir, ir, PLAIN).item() == pytest.approx(0, abs=2e-3)


def test_correlation_counts_less_below_two_levels():
    strong = batch(textured(1), torch.float64)
    faint = strong * (2 * LEVEL / strong.std(correction=0))  # as strong as what softens it
    assert losses.correlation(strong, strong).item() == pytest.approx(1, abs=0.005)
    assert losses.correlation(faint, faint).item() == pytest.approx(0.5, abs=1e-9)
    assert losses.correlation(strong, torch.zeros_like(strong)).item() == 0


FLAT = {'black': np.zeros((SIDE, SIDE)), 'white': np.full((SIDE, SIDE), 255.0), 'grey': np.full((SIDE, SIDE), 90.0),
        'textured': textured(1)}


@pytest.mark.parametrize('name', TERMS)
def test_gradient_of_every_term_is_finite_for_dull_images(name):
    for ir in FLAT.values():
        for vi in FLAT.values():
            for levels in (*FLAT.values(), textured(2)):  # with sources equal to it and sources that are not
                fused = batch(levels).requires_grad_()
                value = TERMS[name](fused, batch(ir), batch(vi), EVERY)
                value.backward()
                assert torch.isfinite(value) and torch.isfinite(fused.grad).all()
