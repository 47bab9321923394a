# SPDX-License-Identifier: Apache-2.0
"""What stops a training."""

from ...core.frames import DiffmfError


class TrainingError(DiffmfError):
    """A training that cannot start, resume or go on as asked."""
