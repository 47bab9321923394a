# SPDX-License-Identifier: Apache-2.0
"""docs/reliability.md has every promise, and the test that keeps each is there."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / 'benchmarks'))

import reliability  # noqa: E402


@pytest.mark.parametrize('row', reliability.promises(), ids=lambda row: row['promise'])
def test_promise_is_kept_by_test(row):
    """The file of the test exists and defines the function that is named."""
    file, _, name = row['test'].partition('::')
    functions = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
                 if isinstance(node, ast.FunctionDef)}

    assert not name or name in functions
    assert any(function.startswith('test_') for function in functions)


def test_page_has_promises():
    """The page is as promises.csv is: python benchmarks/reliability.py --repeat 0 --write."""
    page = (ROOT / 'docs' / 'reliability.md').read_text(encoding='utf-8')

    assert '\n'.join(reliability.promises_table()) in page
