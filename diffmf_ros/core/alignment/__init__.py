# SPDX-License-Identifier: Apache-2.0
"""Geometry: cameras, lenses, the mapping of the thermal image onto the grid of RGB."""
