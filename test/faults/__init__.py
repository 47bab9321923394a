# SPDX-License-Identifier: Apache-2.0
"""The fault matrix: what the node does, over real DDS, when a camera, a clock or the network
fails."""
