# SPDX-License-Identifier: Apache-2.0
"""Thermal + RGB fusion for ROS 2 with DIFF-MF, a difference-driven state-space network.

`fuse` fuses one pair of arrays, `Fuser` a stream of them (docs/python.md). They are loaded when
they are first used: importing this package alone needs neither rclpy, torch nor OpenCV.
"""

__version__ = '0.1.0'
_API = ('DiffmfError', 'Fuser', 'FusionResult', 'FusionWarning', 'InputError', 'Mode', 'fuse')
__all__ = ['__version__', *_API]


def __getattr__(name: str) -> object:
    if name in _API:
        from importlib import import_module

        return getattr(import_module('.api', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
