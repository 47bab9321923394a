# SPDX-License-Identifier: Apache-2.0
"""Mamba-2's scan in ONNX operators.

Matrix products on chunks, and two levels of carry (Dao and Gu 2024).

64 tokens make a chunk and 64 chunks a group. Inside a chunk, from chunk to chunk inside a group
and from group to group, everything is a product with a triangle of decays, each the exponential of
a sum over the steps between. Those sums have terms of one sign and no cancellation, unlike
differences of running sums.
"""

import onnx

from .scans import DOMAIN, parse

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
    """Return SSD, and the functions it calls."""
    return [parse(text.replace('DOMAIN', DOMAIN))
            for text in (DECAY, LATER, GROUPED, ENTERING, SSD)]
