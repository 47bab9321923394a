# SPDX-License-Identifier: Apache-2.0
"""Thermal + RGB fusion for ROS 2 with DIFF-MF, a difference-driven state-space network.

`fuse` fuses one pair of arrays, `Fuser` a stream of them (docs/python.md). They are loaded when
they are first used: importing this package alone needs neither rclpy, torch nor OpenCV.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        DiffmfError,
        Fuser,
        FusionResult,
        FusionWarning,
        InputError,
        Mode,
        fuse,
    )

__version__ = '0.1.0'
__all__ = ['DiffmfError', 'Fuser', 'FusionResult', 'FusionWarning', 'InputError', 'Mode',
           '__version__', 'fuse']


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module('.api', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
