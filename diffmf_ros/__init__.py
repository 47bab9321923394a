# SPDX-License-Identifier: Apache-2.0
"""Thermal + RGB fusion for ROS 2 with DIFF-MF, a difference-driven state-space network."""

__version__ = '0.1.0'
