# SPDX-License-Identifier: Apache-2.0
"""Measurements that need ROS: each module is run in a process of its own and prints one JSON
object."""
