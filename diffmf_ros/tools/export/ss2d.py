# SPDX-License-Identifier: Apache-2.0
"""SS2D in ONNX operators: all lines of an image at once, then the carry from line to line.

A scan of the whole image would be one step per token. Here a `Scan` walks along the lines (rows or
columns) and handles one token of every line in a step, each line starting from an empty state; a
second, short one walks over the lines and finds the state that enters each of them. The state is
linear in what entered, so y = y of an empty start + (C times the decay since the start of the
line) * entered. Every factor is exp of something negative: nothing overflows, whatever the step
sizes. The N states of a channel do not meet before they are added: they are the first axis of the
state.
"""

import onnx

from .scans import DOMAIN, parse

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


def functions() -> list[onnx.FunctionProto]:
    """Return SS2D, and the functions it calls."""
    ways = ('Lines', '', '0'), ('LinesBackwards', '_turned', '1')
    directions = [(images, name, lines) for name, images, _ in ways for lines in LAYOUTS]
    parts = ''.join(_direction(k, *which) for k, which in enumerate(directions))
    return [*(parse(LINES.replace('NAME', name).replace('BACKWARDS', flag)) for name, _,
              flag in ways),
            parse(SS2D.replace('DIRECTIONS', parts))]
