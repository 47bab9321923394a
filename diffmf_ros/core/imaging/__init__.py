# SPDX-License-Identifier: Apache-2.0
"""Pixels: encodings, thermal gray range, color and luminance, classical fusion."""
