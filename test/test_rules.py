# SPDX-License-Identifier: Apache-2.0
"""Rules of the product that a linter does not know.

No code from data, no shell, no network, no silent except.
"""

import ast
from pathlib import Path

import pytest

import diffmf_ros

PACKAGE = Path(diffmf_ros.__file__).parent
UNPICKLERS = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}
NETWORK = {'urllib', 'requests', 'httpx', 'http', 'ftplib', 'smtplib', 'socket', 'socketserver',
           'asyncio', 'aiohttp', 'xmlrpc'}
# Who needs one of these, and for what.
ALLOWED = {
    'tools/view/server.py': {'socket', 'http', 'urllib'},  # the web page of the node, who may ask
}


def breaches(source, file='core/a.py'):
    """Yield 'file:line: what' for every rule that source breaks."""
    allowed = ALLOWED.get(file, set())
    for node in ast.walk(ast.parse(source)):
        for what in _imports(node) if isinstance(node,
                                                 (ast.Import, ast.ImportFrom)) else _calls(node):
            if what not in allowed:
                yield f'{file}:{node.lineno}: {what}'


def _imports(node):
    names = [alias.name for alias in node.names] if isinstance(node,
                                                               ast.Import) else [node.module or '']
    if isinstance(node, ast.ImportFrom) and node.level:
        return
    for name in names:
        top = name.partition('.')[0]
        if top in UNPICKLERS | NETWORK:
            yield top


def _calls(node):
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        yield 'bare except'
    if not isinstance(node, ast.Call):
        return
    name = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in ('eval', 'exec', '__import__', 'os.system', 'os.popen', 'subprocess.getoutput'):
        yield name
    if keywords.get('shell', 'False') != 'False':
        yield 'shell'
    if name == 'torch.load' and keywords.get('weights_only') != 'True':
        yield 'torch.load'
    if name in ('np.load', 'numpy.load') and keywords.get('allow_pickle', 'False') != 'False':
        yield 'allow_pickle'
    if name == 'yaml.load' and 'Loader' not in ' '.join((*keywords,
                                                         *map(ast.unparse, node.args[1:]))):
        yield 'yaml.load'
    if name in ('yaml.unsafe_load', 'yaml.full_load'):
        yield name


def test_the_product_keeps_the_rules():
    files = sorted(PACKAGE.rglob('*.py'))

    assert len(files) > 100
    assert [breach for file in files
            for breach in breaches(file.read_text(encoding='utf-8'),
                                   file.relative_to(PACKAGE).as_posix())] == []


def parses_arguments(source: str) -> bool:
    """Whether a script calls parse_args, or parse_known_args, of something."""
    return any(isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
               and node.func.attr in ('parse_args', 'parse_known_args')
               for node in ast.walk(ast.parse(source)))


def test_benchmarks_take_a_help():
    """What runs as a script parses its words; that nothing runs before that is not checked."""
    scripts = {file.name: file.read_text(encoding='utf-8')
               for file in PACKAGE.parent.glob('benchmarks/*.py')}
    scripts = {name: source for name, source in scripts.items()
               if "__name__ == '__main__'" in source}

    assert len(scripts) > 20
    assert [name for name, source in scripts.items() if not parses_arguments(source)] == []
    assert not parses_arguments('import argparse\nparser = argparse.ArgumentParser()')


@pytest.mark.parametrize('source, what', [
    ('import pickle', 'pickle'), ('from pickle import loads', 'pickle'),
    ('import urllib.request', 'urllib'),
    ('def f():\n    import socket', 'socket'), ('eval("1")', 'eval'),
    ('os.system(x)', 'os.system'), ('subprocess.run(x, shell=True)', 'shell'),
    ('torch.load(x)', 'torch.load'),
    ('torch.load(x, weights_only=False)', 'torch.load'),
    ('np.load(x, allow_pickle=True)', 'allow_pickle'), ('yaml.load(x)', 'yaml.load'),
    ('yaml.unsafe_load(x)', 'yaml.unsafe_load'),
    ('try:\n    f()\nexcept:\n    pass', 'bare except'),
])
def test_a_breach_is_found(source, what):
    assert [breach.rpartition(': ')[2] for breach in breaches(source)] == [what]


@pytest.mark.parametrize('source', [
    'torch.load(x, weights_only=True)', 'np.load(x)', 'yaml.safe_load(x)', 'subprocess.run([x])',
    'model.eval()',
    'try:\n    f()\nexcept ValueError:\n    pass', 'from .pickle import x',
])
def test_what_is_allowed_passes(source):
    assert list(breaches(source)) == []
