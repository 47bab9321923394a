# SPDX-License-Identifier: Apache-2.0
"""From a network to a dependable function.

Weights, device and precision, and Pair -> FusionResult.
"""
