# SPDX-License-Identifier: Apache-2.0
"""The fusion metrics against golden values, against their definitions spelt out, and on plain
images."""

import json
from math import atan, exp, hypot, log, pi, sqrt
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from diffmf_ros.tools.evaluation import metrics
from diffmf_ros.tools.evaluation.metrics import MetricError, score
from diffmf_ros.tools.evaluation.scoring import luminance

SHARED = Path(__file__).resolve().parents[4] / 'shared'
GOLDEN = SHARED / 'reference' / 'metrics' / 'golden.json'
# The golden evaluator works in float32 except for the first three; SSIM repeats its float32 steps.
TOLERANCE = {'EN': 1e-9, 'MI': 1e-9, 'VIF': 1e-9, 'SSIM_dr2': 1e-9, 'SSIM_dr255': 1e-9}


def scene(seed: int, size: int = 48) -> np.ndarray:
    """A smooth random image with hard edges, float64 of whole levels."""
    noise = np.random.default_rng(seed).uniform(0, 255, (size, size))
    image = cv2.GaussianBlur(noise, (0, 0), 3)
    image = (image - image.min()) / np.ptp(image) * 200
    image[10:20, 5:30] += 55
    return np.rint(image)


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.skipif(not GOLDEN.exists(), reason=f'the golden images are not at {SHARED}')
def test_metrics_match_golden_values():
    # Given the images of the public evaluator, their luminance rounded in float32 as it does
    for row in json.loads(GOLDEN.read_text()):
        folder, name = row['pair'].split('_', 1)
        color = cv2.imread(str(SHARED / 'data' / 'val' / folder / 'vi' / f'{name}.jpg'))
        vi_y = luminance(color)
        ir, fused = (cv2.imread(str(GOLDEN.parent / f'{row["pair"]}__{kind}.png'),
                                cv2.IMREAD_GRAYSCALE)
                     for kind in ('ir', row['fusion']))
        # when they are scored
        got = score(ir, vi_y, fused)
        # then every metric that it has agrees
        for metric in row.keys() - {'pair', 'fusion'}:
            assert got[metric] == pytest.approx(row[metric], rel=TOLERANCE.get(metric, 1e-6)), \
                (row['pair'], row['fusion'], metric)


def test_constant_images_have_no_content():
    flat = np.full((48, 64), 90, np.uint8)
    got = score(flat, flat, flat)
    assert [got[name] for name in ('EN', 'SD', 'SF', 'AG', 'MI', 'SCD', 'CC', 'Nabf')] == [0.0] * 8
    assert got['VIF'] == 2.0
    assert got['SSIM_dr2'] == got['SSIM_dr255'] == near(2.0)
    assert got['PSNR'] == np.inf


def test_equal_images_are_perfect():
    """Fused equal to both sources is perfect."""
    image = scene(1)
    got = score(image, image, image)
    assert got['CC'] == near(1.0)
    assert got['SSIM_dr2'] == got['SSIM_dr255'] == near(2.0)
    assert got['VIF'] == pytest.approx(2.0, abs=1e-6)
    assert got['MI'] == near(2 * got['EN'] * log(2))
    assert got['Nabf'] == 0.0
    assert got['PSNR'] == np.inf


def test_metrics_of_the_fused_image_alone():
    levels = np.arange(64 * 64).reshape(64, 64) % 256.0
    ramp = np.tile(np.arange(60.0) * 3, (50, 1))
    halves = np.repeat([[0.0, 200.0]], 50, axis=0).repeat(30, axis=1)
    assert metrics.entropy(levels) == near(8.0)
    assert metrics.entropy(halves) == near(1.0)
    assert metrics.standard_deviation(halves) == near(100.0)
    assert metrics.spatial_frequency(ramp) == near(3.0)
    assert metrics.average_gradient(ramp) == near(3 / sqrt(2))
    assert metrics.spatial_frequency(halves) == near(200 / sqrt(59))


def test_correlations_of_known_images():
    ir, vi_y = scene(2) / 2, scene(3) / 2
    assert metrics.correlation_of_differences(ir, vi_y, ir + vi_y) == near(2.0)
    assert metrics.correlation(ir, ir, 255 - ir) == near(-1.0)
    # Copying one source leaves a constant difference: only the other term counts.
    only = np.corrcoef((ir - vi_y).flat, ir.flat)[0, 1]
    assert metrics.correlation_of_differences(ir, vi_y, ir) == near(only)


def test_psnr_of_known_error():
    """Peak signal to noise of a known error."""
    image = scene(4) / 2 + 20
    assert metrics.peak_signal_to_noise(image - 5, image + 5,
                                        image) == near(20 * np.log10(255 / 5))


def test_qabf_of_kept_and_lost_edges():
    """Edge transfer of kept and of lost edges."""
    step = np.repeat([[0.0, 200.0]], 50, axis=0).repeat(30, axis=1)
    kept = 0.9994 * 0.9879 / (1 + exp(-22 * 0.2))
    assert metrics.edge_transfer(step, step, step) == pytest.approx(kept, rel=1e-6)
    assert metrics.edge_transfer(step, step, np.zeros_like(step)) < 0.001
    assert metrics.edge_transfer(step * 0, step * 0, step) == 0.0


def test_nabf_counts_invented_edges():
    """Artifacts are edges that no source has."""
    flat, noisy = np.full((48, 48), 100.0), np.random.default_rng(5).uniform(0, 255, (48, 48))
    assert metrics.fusion_artifacts(flat, flat, noisy) > 0.99
    assert metrics.fusion_artifacts(noisy, flat, flat) == 0.0


def test_metrics_are_symmetric():
    """Every metric of the literature is symmetric in the sources."""
    ir, vi_y, fused = scene(6), scene(7), scene(8)
    one, other = score(ir, vi_y, fused), score(vi_y, ir, fused)
    literature = ['EN', 'SD', 'SF', 'AG', 'MI', 'SCD', 'VIF', 'Qabf', 'SSIM_dr2', 'SSIM_dr255',
                  'CC', 'PSNR', 'Nabf']
    assert list(one) == [*literature, 'salience', 'detail', 'thermal_detail', 'haze', 'saturation',
                         'target', 'target_worst', 'target_dark']
    for name in literature:
        assert one[name] == near(other[name]), name


def test_bytes_and_floats_score_alike():
    images = scene(9), scene(10), scene(11)
    assert score(*(image.astype(np.uint8) for image in images)) == pytest.approx(
        score(*images), nan_ok=True)


@pytest.mark.parametrize('data_range', (2.0, 255.0))
def test_structural_similarity_follows_its_definition(data_range):
    a, f = scene(12), scene(13)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    per_window = []
    for x, y in zip(*(sliding_window_view(image, (7, 7)).reshape(-1, 49) for image in (a, f)),
                    strict=True):
        (vx, cxy), (_, vy) = np.cov(x, y)
        mx, my = x.mean(), y.mean()
        per_window.append((2 * mx * my + c1) * (2 * cxy + c2)
                          / ((mx * mx + my * my + c1) * (vx + vy + c2)))
    # Here in float64; the published values, and so ours, are in float32.
    assert metrics.structural_similarity(a, a, f, data_range=data_range) == pytest.approx(
        2 * np.mean(per_window), rel=5e-6)


def test_ssim_of_flat_bright_floats():
    """Structural similarity of nearly flat bright floats does not explode."""
    # Given images whose variance drowns in the rounding of float32
    random = np.random.default_rng(22)
    a, f = (250 + random.uniform(0, 1e-2, (48, 48)) for _ in range(2))
    # when they are compared with the constants of a data range of 2
    got = metrics.structural_similarity(a, a, f, data_range=2.0)
    # then it stays in its range, although single quotients are off
    assert 0 < got < 2.1


def test_information_fidelity_follows_its_definition():
    source, fused = scene(14, 64), scene(15, 64)
    expected = _slow_vifp(source, fused)
    assert 0 < expected < 1
    assert metrics.information_fidelity(source, source, fused) == near(2 * expected)


def test_edge_metrics_follow_their_definitions():
    ir, vi_y, fused = scene(16, 41), scene(17, 41), scene(18, 41)
    fused[15:30, 15:30] = ir[15:30, 15:30]  # equal strengths too
    assert metrics.edge_transfer(ir, vi_y, fused) == near(_slow_qabf(ir, vi_y, fused))
    assert metrics.fusion_artifacts(ir, vi_y, fused) == near(_slow_nabf(ir, vi_y, fused))


@pytest.mark.parametrize(('images', 'words'), [
    ((np.zeros((48, 48)), np.zeros((48, 50)), np.zeros((48, 48))), 'one shape'),
    ((np.zeros((48, 48, 3)),) * 3, 'one shape'),
    ((np.zeros((40, 48)),) * 3, 'at least 41 x 41'),
    ((np.zeros((48, 48)), np.zeros((48, 48)), np.full((48, 48), np.nan)), 'fused has nan'),
    ((np.zeros((48, 48)), np.full((48, 48), 256.0), np.zeros((48, 48))), 'vi_y has 256.0'),
])
def test_images_that_cannot_be_scored(images, words):
    with pytest.raises(MetricError, match=words):
        score(*images)


def test_smallest_image_is_scored():
    got = score(scene(19, 41), scene(20, 41), scene(21, 41))
    ours = {'detail', 'thermal_detail', 'saturation', 'target', 'target_worst', 'target_dark'}
    # flat nowhere, no color, no blobs
    assert all(np.isfinite(got[name]) for name in got.keys() - ours)


def _slow_vifp(reference, distorted):
    kept = carried = 0.0
    for scale, size in enumerate((17, 9, 5, 3)):
        offsets = np.arange(size) - size // 2
        weights = np.exp(-(offsets[:, None] ** 2 + offsets ** 2) / (2 * (size / 5) ** 2))
        weights /= weights.sum()

        def mean(image, weights=weights, size=size):
            return np.einsum('ijkl,kl->ij', sliding_window_view(image, (size, size)), weights)

        if scale:
            reference, distorted = mean(reference)[::2, ::2], mean(distorted)[::2, ::2]
        products = reference ** 2, distorted ** 2, reference * distorted
        moments = [mean(image) for image in (reference, distorted, *products)]
        for mr, md, rr, dd, rd in zip(*(moment.flat for moment in moments), strict=True):
            vr, vd, cov = max(rr - mr * mr, 0), max(dd - md * md, 0), rd - mr * md
            gain = cov / (vr + 1e-10)
            left = vd - gain * cov
            if gain < 0:
                gain, left = 0, vd
            kept += np.log10(1 + gain ** 2 * vr / (max(left, 1e-10) + 2))
            carried += np.log10(1 + vr / 2)
    return kept / carried


def _slow_edges(image, mode, gain):
    """Strength and angle of every pixel as lists, by Sobel's masks on the padded image."""
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    result = []
    for window in sliding_window_view(np.pad(image, 1, mode=mode), (3, 3)).reshape(-1, 3, 3):
        x, y = np.sum(window * across) * gain, np.sum(window * across.T[::-1]) * gain
        result.append((hypot(x, y), atan(y / x) if x else pi / 2))
    return result


def _slow_qabf(ir, vi_y, fused):
    edges = [_slow_edges(image, 'constant', 1) for image in (ir, vi_y, fused)]
    kept = total = 0.0
    for *sources, (gf, af) in zip(*edges, strict=True):
        for g, a in sources:
            ratio = gf / g if g > gf else g / gf if g < gf else gf
            turn = 1 - abs(a - af) / (pi / 2)
            quality = 0.9994 / (1 + exp(-15 * (ratio - 0.5))) * 0.9879 / (
                1 + exp(-22 * (turn - 0.8)))
            kept, total = kept + quality * g, total + g
    return kept / total


def _slow_nabf(ir, vi_y, fused):
    edges = [_slow_edges(image, 'reflect', 1 / 8) for image in (ir, vi_y, fused)]
    lost = total = 0.0
    for *sources, (gf, af) in zip(*edges, strict=True):
        for g, a in sources:
            ratio = min(g, gf) / max(g, gf) if g and gf else 0.0
            turn = abs(abs(a - af) - pi / 2) * 2 / pi
            quality = sqrt(0.9999 / (1 + exp(-19 * (ratio - 0.5))) * 0.9995
                           / (1 + exp(-22 * (turn - 0.5))))
            weight = g ** 1.5 if g >= 2 else 0.001
            total += weight
            if all(gf > other for other, _ in sources):
                lost += (1 - quality) * weight
    return lost / total
