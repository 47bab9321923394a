# SPDX-License-Identifier: Apache-2.0
"""The `diffmf` command: one file per sub-command, no logic of its own."""
