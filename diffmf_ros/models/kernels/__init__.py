# SPDX-License-Identifier: Apache-2.0
"""Scan backends, one file each, with one interface (see `diffmf_ros.models.scan`).

A backend module offers any of `scan`, `ss2d` and `ssd`, all token-major, and `unavailable()`, which
returns why it cannot run here, or None. `supports(tensor)` says whether it takes this device and dtype.
"""
