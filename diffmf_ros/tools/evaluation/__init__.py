# SPDX-License-Identifier: Apache-2.0
"""Quality of fused images: metrics, detectors, reports."""
