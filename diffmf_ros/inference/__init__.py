# SPDX-License-Identifier: Apache-2.0
"""From a network to a dependable function: weights, device and precision, and Pair -> FusionResult."""
