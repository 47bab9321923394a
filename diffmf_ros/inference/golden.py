# SPDX-License-Identifier: Apache-2.0
"""Golden values of the scans: small inputs and what the sequential loop makes of them in float64.

`golden.safetensors` holds them; `python -m diffmf_ros.inference.golden` writes it again.
Activations are stored in bfloat16, so that every precision a network may run in starts from the
same numbers; parameters and results are in float32. Heights, widths and lengths are odd, and
channels do not fill vectors.

How far a sound scan may be from the exact result follows from the arithmetic that it may use
(`allowed_errors`). A result y is a sum of terms, each a product of an activation, its step size,
B, C and decays. Rounding a factor changes a term by a share of it, so an error is at most that
share of the sum of the terms' absolute values, which is what the scan makes of absolute inputs
(`Case.magnitude`). The shares:

* half precision: each factor may have been rounded to the activations' type, or be truncated to
  TF32 for a matrix product, which loses at most 2 ** -10, twice the unit roundoff of float16. SSD
  truncates two factors of a term on a tensor core, and other backends round up to six.
* every precision: products, exponentials and sums in float32. A term goes through one decay a
  step, each right to four units in the last place; softplus and the products around it to 64 in
  all.
* the result itself is rounded to the activations' type once more.

A wrong token is off by its own size, which is far more than these shares of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..models import scan

PATH = Path(__file__).with_name('golden.safetensors')
SEED = 20
HEIGHT, WIDTH, CHANNELS, RANK = 9, 15, 24, 2
LENGTH = 131
HEADS, HEAD, SSD_STATES = 2, 16, 16
SCAN_STATES = 5
# Step sizes of a fresh network lie in 1e-3 to 1e-1; those of a trained one reach 9.
STEPS = {'fresh': (1e-3, 1e-1), 'trained': (1e-2, 9.0)}
UNIT_ROUNDOFF = {torch.float32: 2.0 ** -24, torch.float16: 2.0 ** -11, torch.bfloat16: 2.0 ** -8}
ROUNDED_FACTORS = 6
FLOAT32_ULPS_A_STEP, FLOAT32_ULPS = 4, 64


@dataclass(frozen=True)
class Case:
    """One call of a scan: operation(*inputs, **options) of models.scan gives expected."""

    name: str
    operation: str
    inputs: tuple[torch.Tensor, ...] = field(repr=False)
    expected: torch.Tensor | None = field(repr=False)
    states: int
    options: dict

    def run(self, backend: str, *, device: str, dtype: torch.dtype) -> torch.Tensor:
        """Run it with the activations in dtype.

        Parameters in float32 (float64 where dtype is that).
        """
        parameters = torch.promote_types(dtype, torch.float32)
        inputs = (x.to(device, dtype if x.dtype == torch.bfloat16 else parameters)
                  for x in self.inputs)
        return getattr(scan, self.operation)(*inputs, **self.options, backend=backend)

    @property
    def steps(self) -> int:
        """Length of the sequence that is scanned."""
        shape = self.inputs[0].shape
        return {'ss2d': shape[1] * shape[2], 'ssd': shape[1],
                'selective_scan': shape[-1]}[self.operation]

    def magnitude(self) -> torch.Tensor:
        """Return the sum of the absolute values of the terms of each result: float64, as expected.
        """
        inputs = list(self.inputs)
        if self.operation == 'ss2d':
            u, proj, dt_weight, *_, skip = inputs
            low, records = proj.split([dt_weight.shape[2], proj.shape[-1] - dt_weight.shape[2]],
                                      dim=-1)
            inputs[0], inputs[1], inputs[5] = u.abs(), torch.cat((low, records.abs()),
                                                                 dim=-1), skip.abs()
        else:  # x or u, B, C and D; step sizes and decays are positive as they are
            inputs = [x.abs() if i in (0, 3, 4, 5) else x for i, x in enumerate(inputs)]
        return replace(self, inputs=tuple(inputs)).run('portable', device='cpu',
                                                       dtype=torch.float64)


def load() -> list[Case]:
    """Return the stored cases."""
    return list(_cases(load_file(PATH)))


def make() -> dict[str, torch.Tensor]:
    """Return inputs and results by name, computed by the reference in float64."""
    tensors = _inputs(np.random.default_rng(SEED))
    results = {case.name: case.run('reference', device='cpu',
                                   dtype=torch.float64).float().contiguous()
               for case in _cases(tensors)}
    return tensors | results


def _cases(tensors: dict[str, torch.Tensor]) -> Iterator[Case]:
    """Put the calls together from named tensors."""
    def case(name, operation, inputs, states, **options):
        return Case(name, operation, tuple(tensors[key] for key in inputs.split()),
                    tensors.get(name), states, options)

    for steps in STEPS:
        for n in (1, 3):
            yield case(f'ss2d {steps}, N {n}', 'ss2d',
                       f'u proj.{n} dt_weight dt_bias.{steps} A.{n} skip', n)
        for directions in (1, 2):
            yield case(f'ssd {steps}, {directions} directions', 'ssd',
                       f'x delta.{steps} A.heads B C D', SSD_STATES,
                       directions=directions)
        yield case(f'selective_scan {steps}', 'selective_scan',
                   f's.u s.delta s.A s.B s.C s.D s.bias.{steps}',
                   SCAN_STATES, delta_softplus=True)


def _inputs(random: np.random.Generator) -> dict[str, torch.Tensor]:
    def normal(*shape):
        return torch.from_numpy(random.standard_normal(shape))

    def steps(kind, *shape):
        low, high = np.log(STEPS[kind])
        return torch.from_numpy(np.exp(random.uniform(low, high, shape)))

    def bias(kind, *shape):  # the inverse of softplus
        return torch.log(torch.expm1(steps(kind, *shape)))

    d, groups, n = 6, 2, SCAN_STATES
    activations = {
        'u': normal(1, HEIGHT, WIDTH, CHANNELS),
        **{f'proj.{n}': normal(1, HEIGHT, WIDTH, 4, RANK + 2 * n) for n in (1, 3)},
        'x': normal(1, LENGTH, HEADS, HEAD), 'B': normal(1, LENGTH, SSD_STATES),
        'C': normal(1, LENGTH, SSD_STATES), 's.u': normal(2, d, LENGTH),
        's.delta': 0.3 * normal(2, d, LENGTH),
        's.B': normal(2, groups, n, LENGTH), 's.C': normal(2, groups, n, LENGTH),
    }
    parameters = {
        'dt_weight': 0.3 * normal(4, CHANNELS, RANK), 'skip': normal(4, CHANNELS),
        **{f'dt_bias.{kind}': bias(kind, 4, CHANNELS) for kind in STEPS},
        **{f'A.{n}': -torch.arange(1.0, n + 1).repeat(4, CHANNELS, 1) for n in (1, 3)},
        # The networks take the step sizes of SSD to float32 before their softplus.
        **{f'delta.{kind}': steps(kind, 1, LENGTH, HEADS) for kind in STEPS},
        'A.heads': -torch.tensor([1.0, 16.0]), 'D': normal(HEADS),
        's.A': -torch.arange(1.0, n + 1).repeat(d, 1), 's.D': normal(d),
        **{f's.bias.{kind}': bias(kind, d) for kind in STEPS},
    }
    return {**{name: x.to(torch.bfloat16) for name, x in activations.items()},
            **{name: x.float() for name, x in parameters.items()}}


def allowed_errors(expected: torch.Tensor, magnitude: torch.Tensor, *, steps: int,
                   dtype: torch.dtype) -> torch.Tensor:
    """Return the largest error of each value of expected that rounding can explain.

    Args:
        expected: The exact result.
        magnitude: Sum of the absolute values of the terms of each, of the same shape.
        steps: Length of the sequence.
        dtype: Of the activations: float32, float16 or bfloat16.

    Returns:
        float64 of the shape of expected.
    """
    unit = UNIT_ROUNDOFF[dtype]
    share = (FLOAT32_ULPS_A_STEP * steps + FLOAT32_ULPS) * UNIT_ROUNDOFF[torch.float32]
    if dtype != torch.float32:
        share += ROUNDED_FACTORS * unit
    smallest = torch.finfo(dtype).smallest_normal * unit  # of what lies below the normal numbers
    return share * magnitude.double() + unit * expected.double().abs() + smallest


if __name__ == '__main__':
    save_file(make(), PATH)
