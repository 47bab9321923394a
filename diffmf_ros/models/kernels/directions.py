# SPDX-License-Identifier: Apache-2.0
"""SS2D from any selective scan: the four directions as index orders, for backends without a fused form."""

import torch
from torch.nn.functional import softplus


def orders(height: int, width: int, device=None) -> torch.Tensor:
    """Token index visited at each step: 4 x (height * width); raster, column-major, and their reverses."""
    raster = torch.arange(height * width, device=device)
    columns = raster.view(height, width).T.flatten()
    return torch.stack([raster, columns, raster.flip(0), columns.flip(0)])


def ss2d_with(scan, u, proj, dt_weight, dt_bias, A, skip):
    """As `diffmf_ros.models.scan.ss2d`, with scan(u, delta, A, B, C) doing the recurrence."""
    states = A.shape[2]
    order = orders(u.shape[1], u.shape[2], u.device)
    direction = torch.arange(len(order), device=u.device)[:, None]
    x = u.flatten(1, 2)[:, order].transpose(1, 2)  # B x L x 4 x D
    records = proj.flatten(1, 2)[:, order, direction].transpose(1, 2)  # B x L x 4 x (R + 2N)
    low, B, C = records.split([dt_weight.shape[2], states, states], dim=-1)
    delta = softplus(torch.einsum('blkr,kdr->blkd', low, dt_weight) + dt_bias)
    y = scan(x, delta, A, B, C) + skip * x
    return y.transpose(1, 2)[:, direction, order.argsort(1)].sum(1).view_as(u)
