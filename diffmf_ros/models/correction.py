# SPDX-License-Identifier: Apache-2.0
"""The fused image as the pixel-wise maximum of the sources plus what a network corrects.

The maximum already holds every pixel of the brighter source at full resolution; a network that paints the
whole image must learn to copy it through its features. docs/training.md has the comparison.
"""

import torch

LEAST_CORRECTION = 1.5 / 255  # smaller ones are noise of the network: 1.5 grey levels


def corrected(ir, vi_y, correction, *, training: bool):
    """Add a correction to the maximum of ir and vi_y, all B x 1 x H x W; in training the whole of it."""
    return torch.maximum(ir, vi_y) + (correction if training else without_noise(correction.to(ir.dtype)))


def without_noise(correction):
    """Shrink towards 0: nothing below LEAST_CORRECTION, nearly all of what is far above (Breiman's garrote, 1995).

    A pixel that needs no correction keeps the value its camera gave it. Training sees the whole correction.
    """
    return correction * (1 - (LEAST_CORRECTION / correction.abs().clamp(min=LEAST_CORRECTION)) ** 2)


def with_strength(state: dict[str, torch.Tensor], strength: float, *, last_layer: str) -> dict[str, torch.Tensor]:
    """Return the state dict of a network whose correction is strength times as large: last_layer is linear."""
    return {name: strength * value if name.startswith(last_layer) else value for name, value in state.items()}
