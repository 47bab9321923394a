# SPDX-License-Identifier: Apache-2.0
"""The operations of `models.scan` composed of a plain scan, for backends without fused forms."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import softplus

Scan = Callable[..., torch.Tensor]


def scan_order(height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the token visited at each step of the four directions of an image.

    Args:
        height, width: Of the image, in tokens.
        device: Of the result.

    Returns:
        Indices, 4 x (height * width): raster, column-major, and their reverses.
    """
    raster = torch.arange(height * width, device=device)
    columns = raster.view(height, width).T.flatten()
    return torch.stack([raster, columns, raster.flip(0), columns.flip(0)])


def inverse_order(height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Return the step at which each token is visited, the inverse of `scan_order`."""
    raster = torch.arange(height * width, device=device)
    columns = raster.view(width, height).T.flatten()
    return torch.stack([raster, columns, len(raster) - 1 - raster, len(raster) - 1 - columns])


def at_least_float32(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Return half-precision tensors in float32, others as they are."""
    return [t.float() if t.dtype.itemsize < 4 else t for t in tensors]


def selective_scan_with(scan: Scan, u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor,
                        B: torch.Tensor, C: torch.Tensor, D: torch.Tensor | None,
                        delta_bias: torch.Tensor | None, delta_softplus: bool) -> torch.Tensor:
    """Compute `models.scan.selective_scan` with scan(u, delta, A, B, C) doing the recurrence.

    Args:
        scan: Takes u, delta: b x l x g x e; A: g x e x n; B, C: b x l x g x n, and returns
            b x l x g x e.
        u, delta, A, B, C, D, delta_bias, delta_softplus: As there.

    Returns:
        b x d x l in the type of u.
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


def along_directions(u: torch.Tensor, proj: torch.Tensor, rank: int) -> tuple[torch.Tensor, ...]:
    """Lay an image out in the order of the four directions.

    Args:
        u: B x H x W x D.
        proj: B x H x W x 4 x (rank + 2N).
        rank: Of the step size.

    Returns:
        u, low-rank step size, B and C, each B x 4 x L x its width.
    """
    order = scan_order(u.shape[1], u.shape[2], u.device)
    direction = torch.arange(len(order), device=u.device)[:, None]
    states = (proj.shape[-1] - rank) // 2
    records = proj.flatten(1, 2)[:, order, direction]
    return u.flatten(1, 2)[:, order], *records.split([rank, states, states], dim=-1)


def add_directions(y: torch.Tensor, image_shape: torch.Size) -> torch.Tensor:
    """Undo the order of the directions, and add them in float32 or better.

    Args:
        y: B x 4 x L x D.
        image_shape: B x H x W x D.

    Returns:
        Tensor of image_shape.
    """
    when = inverse_order(image_shape[1], image_shape[2], y.device)
    direction = torch.arange(len(when), device=y.device)[:, None]
    return y[:, direction,
             when].sum(1, dtype=torch.promote_types(y.dtype, torch.float32)).view(image_shape)


def bidirectional(scan: Scan, directions: int, *tokens: torch.Tensor) -> torch.Tensor:
    """Scan sequences forward, with two directions also from the end, and add the results.

    Args:
        scan: Called with the tokens.
        directions: 1 or 2.
        tokens: B x L x ... each.

    Returns:
        Like the result of scan.
    """
    if directions == 1:
        return scan(*tokens)
    there, back = scan(*(torch.cat((t, t.flip(1))) for t in tokens)).chunk(2)
    return there + back.flip(1)


def ss2d_with(scan: Scan, u: torch.Tensor, proj: torch.Tensor, dt_weight: torch.Tensor,
              dt_bias: torch.Tensor, A: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Compute `models.scan.ss2d` with a scan as in selective_scan_with."""
    dtype = u.dtype
    u, proj = at_least_float32(u, proj)
    parts = along_directions(u, proj, dt_weight.shape[2])
    x, low, B, C = (part.transpose(1, 2) for part in parts)  # B x L x 4 x their width
    delta = softplus(torch.einsum('blkr,kdr->blkd', low, dt_weight) + dt_bias)
    y = scan(x, delta, A, B, C) + skip * x
    return add_directions(y.transpose(1, 2), u.shape).to(dtype)


def ssd_with(scan: Scan, x: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor,
             C: torch.Tensor, directions: int) -> torch.Tensor:
    """Compute `models.scan.ssd` without D; scan(x, delta, A, B, C) does one direction."""
    def one_way(x: torch.Tensor, delta: torch.Tensor, B: torch.Tensor,
                C: torch.Tensor) -> torch.Tensor:
        same = A.dim() == 1 or len(A) == len(x)
        return scan(x, delta, A if same else torch.cat((A, A)), B, C)

    return bidirectional(one_way, directions, *at_least_float32(x, delta, B, C)).to(x.dtype)


def interleave(us: Sequence[torch.Tensor], projs: Sequence[torch.Tensor],
               dt_weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Lay two images out in the order of `scan.interleaved_ss2d`.

    Args:
        us: Two B x H x W x D.
        projs: Two B x H x W x 4 x (R + 2N).
        dt_weight: 4 x D x R.

    Returns:
        u, the step sizes before their bias, B and C, each B x 2L x 4 x its width.
    """
    rank = dt_weight.shape[2]
    laid_out = [along_directions(u, proj, rank) for u, proj in zip(us, projs)]
    # B x 4 x L x width of either -> B x 2L x 4 x width
    u, low, B, C = (torch.stack([part.transpose(1, 2) for part in parts], dim=2).flatten(1, 2)
                    for parts in zip(*laid_out))
    return u, torch.einsum('blkr,kdr->blkd', *at_least_float32(low), dt_weight), B, C


def separate(y: torch.Tensor, image: torch.Tensor) -> list[torch.Tensor]:
    """Undo the order of `interleave`, and add the directions.

    Args:
        y: B x 2L x 4 x D.
        image: B x H x W x D, for its shape and type.

    Returns:
        Two tensors like image.
    """
    y = y.unflatten(1, (-1, 2))  # B x L x 2 x 4 x D
    return [add_directions(of_one.transpose(1, 2), image.shape).to(image.dtype)
            for of_one in y.unbind(2)]
