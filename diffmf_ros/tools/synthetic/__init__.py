# SPDX-License-Identifier: Apache-2.0
"""Rendered streets and the cameras that drive through them."""
