# SPDX-License-Identifier: Apache-2.0
"""The operations of `models.scan` composed of a plain scan, for backends without fused forms."""

import torch
from torch.nn.functional import softplus


def orders(height: int, width: int, device=None) -> torch.Tensor:
    """Token index visited at each step: 4 x (height * width); raster, column-major, and their reverses."""
    raster = torch.arange(height * width, device=device)
    columns = raster.view(height, width).T.flatten()
    return torch.stack([raster, columns, raster.flip(0), columns.flip(0)])


def steps(height: int, width: int, device=None) -> torch.Tensor:
    """Step at which each token is visited, the inverse of `orders`: 4 x (height * width)."""
    raster = torch.arange(height * width, device=device)
    columns = raster.view(width, height).T.flatten()
    return torch.stack([raster, columns, len(raster) - 1 - raster, len(raster) - 1 - columns])


def at_least_float32(*tensors):
    """Half-precision tensors in float32, others as they are."""
    return [t.float() if t.dtype.itemsize < 4 else t for t in tensors]


def selective_scan_with(scan, u, delta, A, B, C, D, delta_bias, delta_softplus):
    """As `models.scan.selective_scan`, with scan(u, delta, A, B, C) doing the recurrence.

    scan takes u, delta: b x l x g x e; A: g x e x n; B, C: b x l x g x n and returns b x l x g x e.
    """
    dtype, groups = u.dtype, B.shape[1]
    u, delta, B, C = at_least_float32(u, delta, B, C)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = softplus(delta)
    grouped = [x.unflatten(1, (groups, -1)).movedim(3, 1) for x in (u, delta)]
    y = scan(*grouped, A.unflatten(0, (groups, -1)), B.movedim(3, 1), C.movedim(3, 1))
    y = y.movedim(1, 3).flatten(1, 2)
    return (y if D is None else y + D[:, None] * u).to(dtype)


def along_directions(u, proj, rank: int):
    """Lay an image out as ss2d visits it: u, low-rank step size, B and C, each B x 4 x L x its width.

    u: B x H x W x D; proj: B x H x W x 4 x (rank + 2N).
    """
    order = orders(u.shape[1], u.shape[2], u.device)
    direction = torch.arange(len(order), device=u.device)[:, None]
    states = (proj.shape[-1] - rank) // 2
    records = proj.flatten(1, 2)[:, order, direction]
    return u.flatten(1, 2)[:, order], *records.split([rank, states, states], dim=-1)


def add_directions(y, image_shape):
    """Undo the orders of y, B x 4 x L x D, and add the directions, in float32 or better, to B x H x W x D."""
    when = steps(*image_shape[1:3], y.device)
    direction = torch.arange(len(when), device=y.device)[:, None]
    return y[:, direction, when].sum(1, dtype=torch.promote_types(y.dtype, torch.float32)).view(image_shape)


def both_ways(scan, directions: int, *tokens):
    """Run scan(*tokens) on B x L x ... tensors; with two directions also from the end, and add the results."""
    if directions == 1:
        return scan(*tokens)
    there, back = scan(*(torch.cat((t, t.flip(1))) for t in tokens)).chunk(2)
    return there + back.flip(1)


def ss2d_with(scan, u, proj, dt_weight, dt_bias, A, skip):
    """As `models.scan.ss2d`, with scan as in selective_scan_with."""
    dtype = u.dtype
    u, proj = at_least_float32(u, proj)
    parts = along_directions(u, proj, dt_weight.shape[2])
    x, low, B, C = (part.transpose(1, 2) for part in parts)  # B x L x 4 x their width
    delta = softplus(torch.einsum('blkr,kdr->blkd', low, dt_weight) + dt_bias)
    y = scan(x, delta, A, B, C) + skip * x
    return add_directions(y.transpose(1, 2), u.shape).to(dtype)


def ssd_with(scan, x, delta, A, B, C, directions):
    """As `models.scan.ssd` without D, with scan(x, delta, A, B, C) doing one direction."""
    def one_way(x, delta, B, C):
        return scan(x, delta, A, B, C)

    return both_ways(one_way, directions, *at_least_float32(x, delta, B, C)).to(x.dtype)


def interleave(us, projs, dt_weight):
    """Lay two images out as `scan.interleaved_ss2d` visits them.

    Returns u, the step sizes before their bias, B and C, each B x 2L x 4 x its width.
    """
    rank = dt_weight.shape[2]
    laid_out = [along_directions(u, proj, rank) for u, proj in zip(us, projs)]
    # B x 4 x L x width of either -> B x 2L x 4 x width
    u, low, B, C = (torch.stack([part.transpose(1, 2) for part in parts], dim=2).flatten(1, 2)
                    for parts in zip(*laid_out))
    return u, torch.einsum('blkr,kdr->blkd', *at_least_float32(low), dt_weight), B, C


def separate(y, image):
    """Undo the orders of `interleave` in y, B x 2L x 4 x D, and add the directions: two like image."""
    y = y.unflatten(1, (-1, 2))  # B x L x 2 x 4 x D
    return [add_directions(of_one.transpose(1, 2), image.shape).to(image.dtype) for of_one in y.unbind(2)]
