# SPDX-License-Identifier: Apache-2.0
"""Small recordings with known faults, and the numbers that come out of them."""
