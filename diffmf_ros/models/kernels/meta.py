# SPDX-License-Identifier: Apache-2.0
"""Scans on torch's meta device, where tensors have shapes and no values: nothing is computed."""

import torch


def selective_scan(u: torch.Tensor, *others: object) -> torch.Tensor:
    """Compute `scan.selective_scan`."""
    return torch.empty_like(u)


def ss2d(u: torch.Tensor, *others: object) -> torch.Tensor:
    """Compute `scan.ss2d`."""
    return torch.empty_like(u)


def ssd(x: torch.Tensor, *others: object) -> torch.Tensor:
    """Compute `scan.ssd` without D."""
    return torch.empty_like(x)
