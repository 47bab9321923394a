# SPDX-License-Identifier: Apache-2.0
"""Ways of fusing by their names, and their scores on a folder of registered pairs."""

import math
from collections import abc, defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...core.alignment.auto_trim import AutoTrim
from ...core.alignment.warp import Mapping, resized_mapping
from ...core.checks.sight_monitor import FINE, reduced
from ...core.frames import RGB, THERMAL, DiffmfError
from ...core.imaging import classical
from ...core.imaging.color import paint, split_luma
from ...core.imaging.missing_detail import SHORT_SIDE
from ...core.imaging.stream_filters import VeilMonitor, show_through
from ...core.imaging.warm_contrast import WarmContrast, WarmView, lifted
from ...core.settings import DEFAULTS, SYNTHETIC, with_changes
from ...inference.prepare import UNIT
from ...io.folders import FolderError, LumaPair, pair_files
from ...io.images import gray_of, read_picture
from .metrics import ImageScores, score
from .targets import summary

# What a fused image is for comes first; the metrics of the literature are there to compare.
HEADLINE = (
    'target',
    'target_worst',
    'target_dark',
    'thermal_detail',
    'detail',
    'haze',
    'saturation',
)
LITERATURE = (
    'EN',
    'SD',
    'SF',
    'AG',
    'MI',
    'SCD',
    'VIF',
    'Qabf',
    'SSIM_dr2',
    'SSIM_dr255',
    'CC',
    'PSNR',
    'Nabf',
)
METRICS = (*HEADLINE, *LITERATURE, 'salience')


def cells(scores: dict[str, float], names: tuple[str, ...]) -> list[str]:
    """Return scores as text, three decimals, '-' for what is not defined."""
    return [_text(scores.get(name, math.nan)) for name in names]


def _text(value: float) -> str:
    return '-' if math.isnan(value) else f'{value:.3f}'


# (ir, vi_y) -> fused, H x W float32 in [0, 1]
Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]
THERMAL_SHARE = 0.85
# What needs no network, and each camera alone.
BASELINES: dict[str, Fuse] = {
    'average': lambda ir, y: (ir + y) / 2,
    'maximum': np.maximum,
    'classical': classical.fuse,
    'blend': lambda ir, y: THERMAL_SHARE * ir + (1 - THERMAL_SHARE) * y,
    'rgb': lambda ir, y: y,
    'thermal': lambda ir, y: ir,
}


class UnknownMethod(DiffmfError):
    """No way of fusing has this name."""


def method(name: str, *, preset: str | None = None, weights: Path | str | None = None,
           device: str = DEFAULTS.device, threads: int = DEFAULTS.threads) -> tuple[str, Fuse]:
    """Return a full name and the function: of a baseline, or of the network with the shipped or
    given weights.

    Without a preset it is that of the weights. Raises UnknownMethod, or as Engine and load_weights
    do.
    """
    if name in BASELINES:
        if preset or weights:
            raise UnknownMethod(f'{name} has neither preset nor weights; leave them out')
        return name, BASELINES[name]
    return network_method(name, preset=preset, weights=weights, device=device, threads=threads)


def network_method(name: str, *, preset: str | None = None, weights: Path | str | None = None,
                   device: str = DEFAULTS.device,
                   threads: int = DEFAULTS.threads) -> tuple[str, 'NodeFusion']:
    """Return what method returns, for networks alone."""
    from ... import models
    from ...inference.engine import Engine
    from ...inference.weights import load_weights

    if name not in models.PRESETS:
        raise UnknownMethod(f'unknown model {name!r}; known: '
                            f'{", ".join([*models.PRESETS, *BASELINES])}')
    if preset is None:
        preset = load_weights(weights).preset if weights and str(weights) != SYNTHETIC else (
            with_changes(DEFAULTS, {'model': name}).network_preset)
    settings = {'model': name, 'preset': preset, 'weights': str(weights or ''), 'device': device,
                'threads': threads}
    kind = f' {SYNTHETIC}' if str(weights) == SYNTHETIC else ''
    return f'{name} {preset}{kind}', NodeFusion(Engine(with_changes(DEFAULTS, settings)))


class NodeFusion:
    """Fuses with an engine as the node does.

    Thermal is moved onto the edges of RGB where it lies beside them, shows through where RGB is
    veiled, and warm objects get the contrast that they lack.
    """

    def __init__(self, engine: Any):
        self._engine, self._veil, self._warm_contrast = engine, VeilMonitor(), WarmContrast()
        self._auto_trim = AutoTrim()
        self.moved = 0  # pairs of which thermal was moved
        self.description: str = engine.description

    def __call__(self, ir: np.ndarray, vi_y: np.ndarray, *, stamp_ns: int = 0) -> np.ndarray:
        """Fuse two H x W float32 images in [0, 1]; returns one, in steps of 1/255.

        stamp_ns is their time in a clip; 0: they stand by themselves.
        """
        thermal, luma = _levels(ir), _levels(vi_y)
        mapping = self._mapping(thermal, luma, stamp_ns)
        if not mapping.everywhere:
            thermal = np.where(mapping.seen, mapping.thermal(thermal), luma)
            ir = UNIT * thermal
            self.moved += 1
        levels = self._finished(_levels(self._engine(ir, vi_y)), thermal, luma,
                                None if mapping.everywhere else mapping.seen, stamp_ns)
        return UNIT * (levels if mapping.everywhere else np.where(mapping.seen, levels, luma))

    def _mapping(self, thermal: np.ndarray, luma: np.ndarray, stamp_ns: int) -> Mapping:
        size = luma.shape[::-1]
        images = reduced(thermal), reduced(luma)
        return self._auto_trim.follow(resized_mapping(rgb_size=size, thermal_size=size), *images,
                                      np.ones(images[0].shape, bool), stamp_ns=stamp_ns)

    def _finished(self, levels: np.ndarray, thermal: np.ndarray, luma: np.ndarray,
                  seen: np.ndarray | None, stamp_ns: int) -> np.ndarray:
        """Return fused levels, H x W uint8, with what the node adds to those of a network."""
        coarse = reduced(thermal), reduced(luma)
        share = self._veil(*coarse, _small(seen, coarse[0].shape), stamp_ns=stamp_ns)
        if share is not None:
            levels = show_through(levels, thermal, share)
        fused, ir_fine, y_fine = (reduced(image, SHORT_SIDE) for image in (levels, thermal, luma))
        small = reduced(ir_fine, FINE), reduced(y_fine, FINE)
        view = WarmView.of(*small, _small(seen, small[0].shape), fine=(ir_fine, y_fine))
        return levels if view is None else lifted(
            levels, self._warm_contrast(fused, view, stamp_ns=stamp_ns))


def _small(seen: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a mask, H x W bool or None, at the (h, w) of a thumbnail."""
    return None if seen is None else cv2.resize(seen.view(np.uint8), shape[::-1],
                                                interpolation=cv2.INTER_NEAREST).view(bool)


def _levels(image: np.ndarray) -> np.ndarray:
    """Return an image in [0, 1] as uint8."""
    return np.rint(255 * image).astype(np.uint8)


def fused_levels(fuse: Fuse, ir: np.ndarray, vi_y: np.ndarray) -> np.ndarray:
    """Fuse two H x W uint8 images as the node does, on one scale 0..1, and round to uint8."""
    return np.rint(255 * fuse(*(np.float32(1 / 255) * image for image in (ir, vi_y)))).astype(
        np.uint8)


def luminance(image: np.ndarray) -> np.ndarray:
    """round(0.299 R + 0.587 G + 0.114 B) of an H x W x 3 uint8 image in BGR order, as H x W uint8.

    Gray as it is.

    In float32 with ties to even, as the field's common evaluator has it: OpenCV's integers differ
    in a few pixels.
    """
    if image.ndim == 2:
        return image
    return np.rint(cv2.cvtColor(image.astype(np.float32), cv2.COLOR_BGR2GRAY)).astype(np.uint8)


def colored(levels: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Return a fused luminance (H x W uint8) in the color of visible, as the node does by default.

    visible is H x W x 3 uint8 BGR, and so is the result; where it is gray (H x W), levels come
    back.
    """
    if visible.ndim == 2:
        return levels
    return paint(levels, split_luma(visible, 'bgr8')[1], encoding='bgr8', color='keep_chroma')[0]


def read_luma(visible: Path, infrared: Path) -> LumaPair:
    """Read a registered pair of files for scoring, thermal of 16 bit or float32 through the gain
    control.

    Raises ImageFileError or FolderError for what does not fit.
    """
    return read_pair(visible, infrared)[0]


def read_pair(visible: Path, infrared: Path) -> tuple[LumaPair, np.ndarray]:
    """Read a registered pair of files as read_luma, and the visible image as it is (gray or BGR
    uint8)."""
    seen, heat = (read_picture(file, stream=stream) for file,
                  stream in ((visible, RGB), (infrared, THERMAL)))
    y = luminance(seen.pixels)
    ir = luminance(heat.pixels) if heat.encoding == 'bgr8' else gray_of(heat, infrared)
    if ir.shape != y.shape:
        raise FolderError(f'{infrared} is {ir.shape} and {visible} is {y.shape} (height, width): '
                          f'a registered '
                          'pair has one size')
    return LumaPair(infrared.stem, ir, y), seen.pixels


def score_fused(pair: LumaPair, visible: np.ndarray, fused: np.ndarray, **boxes) -> ImageScores:
    """Return the metrics of fused (H x W uint8) for a pair that read_pair gave, color included.

    Boxes as in score.
    """
    colors = (visible, colored(fused, visible)) if visible.ndim == 3 else None
    return score(pair.ir, pair.vi_y, fused, colors=colors, **boxes)


def fused_pairs(methods: abc.Mapping[str, Fuse], folder: Path) -> Iterator[
        tuple[str, str, tuple[LumaPair, np.ndarray, np.ndarray]]]:
    """Yield (data set, method, (pair, visible, fused)) for every pair below folder and every
    method.

    The data set is the folder that holds ir/ and vi/; the images are uint8. Raises FolderError for
    a folder without pairs.
    """
    for vi_file, ir_file in pair_files(folder):
        pair, visible = read_pair(vi_file, ir_file)
        for name, fuse in methods.items():
            yield ir_file.parent.parent.name, name, (pair, visible,
                                                     fused_levels(fuse, pair.ir, pair.vi_y))


def score_pairs(methods: abc.Mapping[str, Fuse], folder: Path, *,
                report: Callable[[int], None] = lambda done: None) -> Iterator[tuple[str, str,
                                                                                     ImageScores]]:
    """Yield (data set, method, metrics) for every pair below folder and every method.

    See fused_pairs.

    report is called with the number of images that were scored and taken.
    """
    for done, (dataset, name, images) in enumerate(fused_pairs(methods, folder), start=1):
        yield dataset, name, score_fused(*images)
        report(done)


def by_set(scored: Iterable[tuple[str, str, dict[str, float]]]) -> dict[str,
                                                                        dict[str,
                                                                             list[dict[str,
                                                                                       float]]]]:
    """Gather what score_pairs yields as {data set: {method: metrics of every pair}}.

    The last set, 'all', is of all.
    """
    table: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for dataset, method, scores in scored:
        for key in (dataset, 'all'):
            table[key][method].append(scores)
    table['all'] = table.pop('all')
    return table


def means(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the images that define it (finite values); NaN where none does.

    Those of targets are over the targets of all images together (see targets.summary), not over
    images.
    """
    columns = {metric: np.array([row[metric] for row in scores]) for metric in scores[0]}
    finite = {metric: values[np.isfinite(values)] for metric, values in columns.items()}
    mean = {metric: float(values.mean()) if values.size else np.nan for metric,
            values in finite.items()}
    if all(isinstance(row, ImageScores) for row in scores):
        mean |= summary([target for row in scores for target in row.targets])  # type: ignore[attr-defined]
    return mean
