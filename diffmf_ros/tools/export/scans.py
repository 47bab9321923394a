# SPDX-License-Identifier: Apache-2.0
"""A scan backend that writes calls of SS2D and SSD into an ONNX graph instead of computing them,
and both as functions of ONNX operators."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import parser

from ...models import scan
from ...models.kernels.composed import ssd_with

DOMAIN = 'diffmf_ros.tools.export'
OPSET = 18


def parse(text: str) -> onnx.FunctionProto:
    """Return the function that text defines; it may call others of DOMAIN."""
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}, "{DOMAIN}" : '
                                 f'1]>{text}')


@contextmanager
def recorded(network: torch.nn.Module) -> Iterator[None]:
    """Let every scan of network be written into the graph while the context lasts."""
    scanning = [module for module in network.modules() if hasattr(module, 'backend')]
    before = [module.backend for module in scanning]
    scan.BACKENDS['onnx'] = sys.modules[__name__]
    try:
        for module in scanning:
            module.backend = 'onnx'  # type: ignore[assignment]
        yield
    finally:
        del scan.BACKENDS['onnx']
        for module, backend in zip(scanning, before):
            module.backend = backend


def unavailable() -> str | None:
    """Return why this backend cannot run here: it is only there while an export lasts."""
    return None


def refuses(u: torch.Tensor, *, states: int) -> str | None:
    """Return why it cannot write a scan of inputs like u into a graph, or None."""
    return None if u.dtype == torch.float32 else f'a graph is written in float32, not {u.dtype}'


def ss2d(u, proj, dt_weight, dt_bias, A, skip):
    """As `models.scan.ss2d`."""
    return interleaved_ss2d([u], [proj], dt_weight, dt_bias, A, skip)[0]


def interleaved_ss2d(us, projs, dt_weight, dt_bias, A, skip):
    """As `models.scan.interleaved_ss2d`, for any number of images."""
    return call('SS2D', torch.stack(us), torch.stack(projs), dt_weight.mT, dt_bias, A.mT,
                skip).unbind()


def ssd(*inputs):
    """As `models.scan.ssd`, without D."""
    return ssd_with(lambda *one_direction: call('SSD', *one_direction), *inputs)


def call(name, x, *others):
    """Call a function of `ss2d` or `ssd` in the graph; its output is like x."""
    return torch.onnx.ops.symbolic(f'{DOMAIN}::{name}', (x, *others), dtype=x.dtype, shape=x.shape,
                                   version=1)


# SS2D: all lines of an image at once, then the carry from line to line. A scan of the whole image
# would be one step per token. Here a `Scan` walks along the lines (rows or columns) and handles
# one token of every line in a step, each line starting from an empty state; a second, short one
# walks over the lines and finds the state that enters each of them. The state is linear in what
# entered, so y = y of an empty start + (C times the decay since the start of the line) * entered.
# Every factor is exp of something negative: nothing overflows, whatever the step sizes. The N
# states of a channel do not meet before they are added: they are the first axis of the state.
#
# One direction. x: T x B x M x D (T tokens in each of M lines); records: T x B x M x (R + 2N); w:
# R x D; bias: D; A: N x D. delta is softplus(low w + bias), but Softplus alone takes most of
# onnxruntime's time: it is max(0, raw) + log1p(exp(-|raw|)) here, and log1p(e) is log(1 + e) plus
# what rounding 1 + e lost, which keeps small step sizes exact.
LINES = """
NAME (x, records, w, bias, A) => (y)
{
  one = Constant <value = float {1.0}> ()
  first = Constant <value = int64 {0}> ()
  start = Constant <value = int64[1] {0}> ()
  last_axis = Constant <value = int64[1] {-1}> ()
  two = Constant <value = int64[1] {2}> ()
  states_axis = Constant <value = int64[1] {1}> ()
  lines_and_batch = Constant <value = int64[2] {1, 2}> ()
  end = Constant <value = int64[1] {2147483647}> ()
  states = Shape <end = 1> (A)
  at_c = Neg (states)
  at_b = Mul (at_c, two)
  low = Slice (records, start, at_b, last_axis)
  b_last = Slice (records, at_b, at_c, last_axis)
  c_last = Slice (records, at_c, end, last_axis)
  b_first = Transpose <perm = [0, 3, 1, 2]> (b_last)
  c_first = Transpose <perm = [0, 3, 1, 2]> (c_last)
  b = Unsqueeze (b_first, last_axis)
  c = Unsqueeze (c_first, last_axis)
  rates = Unsqueeze (A, lines_and_batch)
  one_state_shape = Shape <start = 1> (x)
  state_shape = Concat <axis = 0> (states, one_state_shape)
  no_state = ConstantOfShape <value = float[1] {0.0}> (state_shape)
  no_decay = ConstantOfShape <value = float[1] {1.0}> (state_shape)
  last, last_decay, y_alone, gain = Scan <
    num_scan_inputs = 4,
    scan_input_directions = [BACKWARDS, BACKWARDS, BACKWARDS, BACKWARDS],
    scan_output_directions = [BACKWARDS, BACKWARDS],
    body = step (float[?, ?, ?, ?] state, float[?, ?, ?, ?] decay, float[?, ?, ?] x_t,
                 float[?, ?, ?] low_t, float[?, ?, ?, ?] b_t, float[?, ?, ?, ?] c_t)
        => (float[?, ?, ?, ?] new_state, float[?, ?, ?, ?] new_decay, float[?, ?, ?, ?] y_t,
            float[?, ?, ?, ?] gain_t)
    {
      wide = MatMul (low_t, w)
      raw = Add (wide, bias)
      size = Abs (raw)
      negative = Neg (size)
      e = Exp (negative)
      one_e = Add (one, e)
      log = Log (one_e)
      kept = Sub (one_e, one)
      lost = Sub (e, kept)
      log1p = Add (log, lost)
      positive = Relu (raw)
      delta = Add (positive, log1p)
      exponent = Mul (delta, rates)
      a = Exp (exponent)
      decayed = Mul (a, state)
      dx = Mul (delta, x_t)
      added = Mul (dx, b_t)
      new_state = Add (decayed, added)
      new_decay = Mul (a, decay)
      y_t = Mul (new_state, c_t)
      gain_t = Mul (new_decay, c_t)
    }
  > (no_state, no_decay, x, low, b, c)
  last_by_line = Transpose <perm = [2, 0, 1, 3]> (last)
  decay_by_line = Transpose <perm = [2, 0, 1, 3]> (last_decay)
  nothing = Gather <axis = 2> (no_state, first)
  final, entering_by_line = Scan <
    num_scan_inputs = 2,
    scan_input_directions = [BACKWARDS, BACKWARDS],
    scan_output_directions = [BACKWARDS],
    body = line (float[?, ?, ?] state, float[?, ?, ?] last_m, float[?, ?, ?] decay_m)
        => (float[?, ?, ?] new_state, float[?, ?, ?] entering_m)
    {
      entering_m = Identity (state)
      carried = Mul (decay_m, state)
      new_state = Add (carried, last_m)
    }
  > (nothing, last_by_line, decay_by_line)
  entering = Transpose <perm = [1, 2, 0, 3]> (entering_by_line)
  through = Mul (gain, entering)
  y_by_state = Add (y_alone, through)
  y = ReduceSum <keepdims = 0> (y_by_state, states_axis)
}
"""

# As `models.scan.ss2d` for S images whose tokens take turns; with one it is that, with two
# `interleaved_ss2d`. u: S x B x H x W x D; proj: S x B x H x W x 4 x (R + 2N); w: 4 x R x D; bias,
# skip: 4 x D; A: 4 x N x D. Taking turns in raster order is the raster order of one image whose
# columns are of each image in turn, and so for rows. The reverse directions begin at the end of
# such an image: there the last of the images has to be the first.
SS2D = """
SS2D (u, proj, w, bias, A, skip) => (y)
{
  first_axis = Constant <value = int64[1] {0}> ()
  minus_one = Constant <value = int64[1] {-1}> ()
  before_all = Constant <value = int64[1] {-2147483648}> ()
  u_turned = Slice (u, minus_one, before_all, first_axis, minus_one)
  proj_turned = Slice (proj, minus_one, before_all, first_axis, minus_one)
  DIRECTIONS
  there = Add (y0, y1)
  back_turned = Add (y2, y3)
  back = Slice (back_turned, minus_one, before_all, first_axis, minus_one)
  scanned = Add (there, back)
  skips = ReduceSum <keepdims = 0> (skip, first_axis)
  skipped = Mul (u, skips)
  y = Add (scanned, skipped)
}
"""
# Lines are rows or columns: S x B x H x W x C -> T x S x B x M x C, and back.
LAYOUTS = {'rows': ('[3, 0, 1, 2, 4]', '[1, 2, 3, 0, 4]'),
           'columns': ('[2, 0, 1, 3, 4]', '[1, 2, 0, 3, 4]')}


def _direction(k: int, images: str, name: str, lines: str) -> str:
    """Return the part of SS2D that scans direction k with function name; images: what u and proj
    end with."""
    layout, undone = LAYOUTS[lines]
    return f"""
  k{k} = Constant <value = int64 {{{k}}}> ()
  proj{k} = Gather <axis = 4> (proj{images}, k{k})
  u_by_line{k} = Transpose <perm = {layout}> (u{images})
  proj_by_line{k} = Transpose <perm = {layout}> (proj{k})
  u_shape{k} = Shape <start = 2> (u_by_line{k})
  proj_shape{k} = Shape <start = 2> (proj_by_line{k})
  x_shape{k} = Concat <axis = 0> (minus_one, u_shape{k})
  records_shape{k} = Concat <axis = 0> (minus_one, proj_shape{k})
  x{k} = Reshape (u_by_line{k}, x_shape{k})
  records{k} = Reshape (proj_by_line{k}, records_shape{k})
  w{k} = Gather (w, k{k})
  bias{k} = Gather (bias, k{k})
  A{k} = Gather (A, k{k})
  y_lines{k} = {DOMAIN}.{name} (x{k}, records{k}, w{k}, bias{k}, A{k})
  y_shape{k} = Shape (u_by_line{k})
  y_by_line{k} = Reshape (y_lines{k}, y_shape{k})
  y{k} = Transpose <perm = {undone}> (y_by_line{k})
"""


# SSD, Mamba-2's scan: matrix products on chunks, and two levels of carry (Dao and Gu 2024). 64
# tokens make a chunk and 64 chunks a group. Inside a chunk, from chunk to chunk inside a group and
# from group to group, everything is a product with a triangle of decays, each the exponential of a
# sum over the steps between. Those sums have terms of one sign and no cancellation, unlike
# differences of running sums.
#
# Decay from the end of step s to the end of step t, 0 for t before s: ... x n -> ... x n (t) x n
# (s).
DECAY = """
DecayBetween (log_decay) => (decay)
{
  last = Constant <value = int64[1] {-1}> ()
  below = Constant <value = int64 {-1}> ()
  n = Shape <start = -1> (log_decay)
  square = Concat <axis = 0> (n, n)
  ones = ConstantOfShape <value = float[1] {1.0}> (square)
  until = Trilu <upper = 0> (ones)
  before = Trilu <upper = 0> (ones, below)
  column = Unsqueeze (log_decay, last)
  steps = Mul (column, before)
  sums = MatMul (until, steps)
  factors = Exp (sums)
  decay = Mul (factors, until)
}
"""
# ... x n x m moved by one step, the first one empty.
LATER = """
OneLater (x) => (later)
{
  start = Constant <value = int64[1] {0}> ()
  end = Constant <value = int64[1] {-1}> ()
  axis = Constant <value = int64[1] {-2}> ()
  pads = Constant <value = int64[2] {1, 0}> ()
  empty = Constant <value = float {0.0}> ()
  all_but_last = Slice (x, start, end, axis)
  later = Pad (all_but_last, pads, empty, axis)
}
"""
# B x L x H x M -> B x H x groups x 64 x 64 x M, padded with zeros, which leave the state
# unchanged.
GROUPED = """
Grouped (x) => (grouped)
{
  none = Constant <value = int64[1] {0}> ()
  axis = Constant <value = int64[1] {1}> ()
  group = Constant <value = int64[1] {4096}> ()
  front = Constant <value = int64[5] {0, 0, -1, 64, 64}> ()
  empty = Constant <value = float {0.0}> ()
  length = Shape <start = 1, end = 2> (x)
  opposite = Neg (length)
  missing = Mod (opposite, group)
  pads = Concat <axis = 0> (none, missing)
  padded = Pad (x, pads, empty, axis)
  heads_first = Transpose <perm = [0, 2, 1, 3]> (padded)
  m = Shape <start = 3> (x)
  shape = Concat <axis = 0> (front, m)
  grouped = Reshape (heads_first, shape)
}
"""
# State that enters every chunk. added: B x H x groups x 64 x M, what each chunk adds; log_decay:
# the same without M, of whole chunks.
ENTERING = """
Entering (added, log_decay) => (entering)
{
  last = Constant <value = int64[1] {-1}> ()
  chunks = Constant <value = int64[1] {3}> ()
  chunk_axis = Constant <value = int64 {3}> ()
  end = Constant <value = int64 {-1}> ()
  flat = Constant <value = int64[3] {0, 0, -1}> ()
  inside = DOMAIN.DecayBetween (log_decay)
  within = MatMul (inside, added)
  group_log = ReduceSum <keepdims = 0> (log_decay, last)
  from_group = DOMAIN.DecayBetween (group_log)
  group_added = Gather <axis = 3> (within, end)
  groups_after = MatMul (from_group, group_added)
  groups_entering = DOMAIN.OneLater (groups_after)
  groups = Unsqueeze (groups_entering, chunks)
  running = CumSum (log_decay, chunk_axis)
  since = Exp (running)
  since_start = Unsqueeze (since, last)
  carried = Mul (since_start, groups)
  after = Add (within, carried)
  m = Shape <start = 4> (added)
  flat_shape = Concat <axis = 0> (flat, m)
  after_flat = Reshape (after, flat_shape)
  entering_flat = DOMAIN.OneLater (after_flat)
  shape = Shape (added)
  entering = Reshape (entering_flat, shape)
}
"""
# As `models.kernels.reference.ssd_scan`. x: B x L x H x P; delta: B x L x H; A: H; b, c: B x L x
# N.
SSD = """
SSD (x, delta, A, b, c) => (y)
{
  last = Constant <value = int64[1] {-1}> ()
  heads = Constant <value = int64[1] {2}> ()
  end = Constant <value = int64 {-1}> ()
  token_axis = Constant <value = int64 {4}> ()
  start = Constant <value = int64[1] {0}> ()
  length_axis = Constant <value = int64[1] {1}> ()
  flat = Constant <value = int64[5] {0, 0, 0, 0, -1}> ()
  tokens = Constant <value = int64[2] {0, -1}> ()
  exponent = Mul (delta, A)
  exponent_column = Unsqueeze (exponent, last)
  exponents = DOMAIN.Grouped (exponent_column)
  log_decay = Squeeze (exponents, last)
  delta_column = Unsqueeze (delta, last)
  x_delta = Mul (x, delta_column)
  dx = DOMAIN.Grouped (x_delta)
  b_all_heads = Unsqueeze (b, heads)
  B = DOMAIN.Grouped (b_all_heads)
  c_all_heads = Unsqueeze (c, heads)
  C = DOMAIN.Grouped (c_all_heads)
  B_t = Transpose <perm = [0, 1, 2, 3, 5, 4]> (B)
  between = DOMAIN.DecayBetween (log_decay)
  similarity = MatMul (C, B_t)
  weights = Mul (between, similarity)
  y_inside = MatMul (weights, dx)
  until_end = Gather <axis = 4> (between, end)
  until_end_column = Unsqueeze (until_end, last)
  kept = Mul (dx, until_end_column)
  added = MatMul (B_t, kept)
  added_flat = Reshape (added, flat)
  chunk_log = ReduceSum <keepdims = 0> (log_decay, last)
  entering_flat = DOMAIN.Entering (added_flat, chunk_log)
  state_shape = Shape (added)
  entering = Reshape (entering_flat, state_shape)
  seen = MatMul (C, entering)
  running = CumSum (log_decay, token_axis)
  since = Exp (running)
  since_start = Unsqueeze (since, last)
  y_carried = Mul (seen, since_start)
  y_grouped = Add (y_inside, y_carried)
  tokens_first = Transpose <perm = [0, 2, 3, 4, 1, 5]> (y_grouped)
  head_shape = Shape <start = 2> (x)
  y_shape = Concat <axis = 0> (tokens, head_shape)
  y_padded = Reshape (tokens_first, y_shape)
  length = Shape <start = 1, end = 2> (x)
  y = Slice (y_padded, start, length, length_axis)
}
"""


def functions() -> list[onnx.FunctionProto]:
    """Return SS2D and SSD, and the functions they call."""
    ways = ('Lines', '', '0'), ('LinesBackwards', '_turned', '1')
    directions = [(images, name, lines) for name, images, _ in ways for lines in LAYOUTS]
    parts = ''.join(_direction(k, *which) for k, which in enumerate(directions))
    texts = [*(LINES.replace('NAME', name).replace('BACKWARDS', flag) for name, _, flag in ways),
             SS2D.replace('DIRECTIONS', parts),
             *(text.replace('DOMAIN', DOMAIN) for text in (DECAY, LATER, GROUPED, ENTERING, SSD))]
    return [parse(text) for text in texts]
