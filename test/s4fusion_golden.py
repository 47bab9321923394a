# SPDX-License-Identifier: Apache-2.0
"""Synthetic weights of S4Fusion as a function of the names and shapes of its tensors, for golden
values."""

import math
import zlib

import numpy as np

PREFIX = 'vmunet.'


def synthetic(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float32 tensor of a name of the authors' checkpoint, prefix included."""
    random = np.random.RandomState(zlib.crc32(name.encode('ascii')))
    parent, leaf = name.split('.')[-2:]
    if leaf == 'A_logs':
        value = np.log(np.arange(1, shape[1] + 1)) + 0.1 * random.standard_normal(shape)
    elif leaf == 'Ds':
        value = 1 + 0.2 * random.standard_normal(shape)
    elif leaf == 'dt_projs_bias':
        step = np.exp(random.random_sample(shape) * (math.log(0.1) - math.log(0.001))
                      + math.log(0.001))
        value = step + np.log(-np.expm1(-step))
    elif leaf == 'dt_projs_weight':
        value = (2 * random.random_sample(shape) - 1) * shape[-1] ** -0.5
    elif leaf == 'bias':
        value = 0.1 * random.standard_normal(shape)
    elif leaf in ('x_proj_weight', 'y_proj_weight', 'mark_proj'):
        value = random.standard_normal(shape) * shape[-1] ** -0.5
    elif 'norm' in parent or parent == 'ln_1':
        value = 1 + 0.1 * random.standard_normal(shape)
    else:
        value = random.standard_normal(shape) * math.prod(shape[1:]) ** -0.5
    return value.astype(np.float32)
