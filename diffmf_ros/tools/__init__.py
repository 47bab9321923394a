# SPDX-License-Identifier: Apache-2.0
"""Offline work around the product: training, evaluation, export, benchmarks, demo."""
