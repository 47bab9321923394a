# SPDX-License-Identifier: Apache-2.0
"""Judges images: blind cameras, hidden warm targets, doubtful inputs."""
