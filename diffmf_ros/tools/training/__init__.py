# SPDX-License-Identifier: Apache-2.0
"""Data set, losses and the training loop."""
