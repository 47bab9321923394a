# SPDX-License-Identifier: Apache-2.0
"""The codes of issues and the reasons of dropped frames in the code are those of the page."""

import ast
import inspect
import re
from pathlib import Path

import diffmf_ros
from diffmf_ros.core.frames import FrameError

PACKAGE = Path(diffmf_ros.__file__).parent
PAGE = PACKAGE.parent / 'docs/reliability.md'
COUNTING = {'drop', '_drop', 'record_drop'}  # functions whose first argument is a reason


def calls():
    """Yield (name of the function, call) for every call in the package."""
    for folder in ('core', 'inference', 'io', 'ros'):
        for path in sorted((PACKAGE / folder).rglob('*.py')):
            for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
                if isinstance(node, ast.Call):
                    yield getattr(node.func, 'attr', getattr(node.func, 'id', '')), node


def constant(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ''


def documented():
    """Return the codes in the first column of the page's tables."""
    rows = re.findall(r'^\| (`[^|]*) \|', PAGE.read_text(encoding='utf-8'), re.MULTILINE)
    return {code for row in rows for code in re.findall(r'`([a-z_0-9]+)`', row)}


def test_codes_of_issues_are_documented():
    """Every code that an issue can have stands in a table of the page."""
    used = {constant(call.args[0]) for name, call in calls() if name == 'Issue' and call.args}

    assert len(used) > 15
    assert used - {''} - documented() == set()


def test_reasons_of_drops_are_documented():
    """Every reason under which a frame is counted stands in a table of the page."""
    used = {constant(word.value) for name, call in calls() if name == 'FrameError'
            for word in call.keywords if word.arg == 'reason'}
    used |= {constant(call.args[0]) for name, call in calls() if name in COUNTING and call.args}
    used.add(inspect.signature(FrameError).parameters['reason'].default)

    assert len(used) > 20
    assert used - {''} - documented() == set()
