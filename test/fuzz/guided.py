# SPDX-License-Identifier: Apache-2.0
"""Fuzzing that follows what code an input reaches, where atheris is installed: `make fuzz`.

    python -m fuzz.guided NAME CORPUS [options of libFuzzer, such as -max_total_time=60]

NAME is one of TARGETS. CORPUS is a folder that keeps the inputs which reached something new;
`-merge=1 NEW CORPUS` keeps the fewest in NEW that reach as much.
"""

import sys

import atheris
from hypothesis import HealthCheck, given, settings

with atheris.instrument_imports(include=['diffmf_ros']):
    from diffmf_ros.core.frames import DiffmfError

    from .targets import TARGETS, refused


def fuzzed(name: str):
    """Return what libFuzzer calls with bytes: hypothesis makes the case for a target of them."""
    cases, check, _ = TARGETS[name]

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def try_one(case):
        try:
            check(case)
        except DiffmfError as error:
            assert refused(error), repr(error)

    return try_one.hypothesis.fuzz_one_input


if __name__ == '__main__':
    atheris.Setup([sys.argv[0], *sys.argv[2:]], fuzzed(sys.argv[1]))
    atheris.Fuzz()
