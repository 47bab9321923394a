# SPDX-License-Identifier: Apache-2.0
"""The backends of `models.scan`, one module each; `models.scan.BACKENDS` says what one has.

Kernels choose by `device_type(tensor)`, so that a plan (`tools/bench/plan.py`) can count, on a
machine without a GPU, what would be launched on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class ScanError(ValueError):
    """An unknown backend, or one that cannot run what was asked."""


_meta_stands_for = ContextVar('meta_stands_for', default='meta')


@contextmanager
def meta_stands_for_cuda() -> Iterator[None]:
    """Let tensors on the meta device take the way of those on a GPU, in this context."""
    token = _meta_stands_for.set('cuda')
    try:
        yield
    finally:
        _meta_stands_for.reset(token)


def planning() -> bool:
    """Return whether meta tensors stand for tensors on a GPU now."""
    return _meta_stands_for.get() == 'cuda'


def device_type(tensor: torch.Tensor) -> str:
    """Return 'cpu', 'cuda' or 'meta'; for a meta tensor inside `meta_stands_for_cuda` 'cuda'."""
    return _meta_stands_for.get() if tensor.is_meta else tensor.device.type
