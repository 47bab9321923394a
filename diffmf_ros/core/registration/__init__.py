# SPDX-License-Identifier: Apache-2.0
"""Finds the alignment of two cameras from their images."""
