# SPDX-License-Identifier: Apache-2.0
"""Measures speed, memory and energy; predicts them from the operations of a network."""
