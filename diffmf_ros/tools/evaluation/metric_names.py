# SPDX-License-Identifier: Apache-2.0
"""Names of the metrics in the order of every table, and scores as text."""

import math

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
