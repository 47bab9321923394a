# SPDX-License-Identifier: Apache-2.0
"""`diffmf doctor` finds out what is there, survives every kind of broken library, and says what to
do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from diffmf_ros.cli.main import run
from diffmf_ros.io.resources import find
from diffmf_ros.tools.doctor import (
    Diagnosis,
    Finding,
    Imported,
    Severity,
    ros,
    system,
    try_imports,
)
from diffmf_ros.tools.doctor.system import jetson_release

GOOD, WARN, ERROR, FAIL = Severity


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.mark.parametrize('source, reason', [
    ('import no_such_module_of_ours', 'no_such_module_of_ours is not installed'),
    ('raise ImportError("undefined symbol: _ZN3c10")', 'ImportError: undefined symbol: _ZN3c10'),
    ('raise RuntimeError("no CUDA")', 'RuntimeError: no CUDA'),
    ('raise OSError("libGL.so.1: cannot open shared object file")',
     'OSError: libGL.so.1: cannot open'),
    ('import os; os.abort()', 'importing it ends the process with SIGABRT'),
    ('import sys; sys.exit(3)', 'exit code 3'),
])
def test_broken_library_gives_reason(tmp_path, monkeypatch, source, reason):
    """A library that breaks gives its reason."""
    (tmp_path / 'broken_library.py').write_text(source)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = try_imports(['broken_library', 'json'])
    assert found['broken_library'].reason.startswith(reason)
    assert found['json'] == Imported(version='2.0.9')


def test_talking_library_is_tolerated(tmp_path, monkeypatch):
    """A library may talk when it is imported."""
    (tmp_path / 'talking_library.py').write_text('print("hello"); __version__ = "1.2"')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert try_imports(['talking_library'])['talking_library'] == Imported(version='1.2')


def test_blocking_finding_comes_first():
    """A blocking finding stops the node and its advice comes first."""
    lacks, blocks = Finding('a', 'x', 'no', WARN, 'later'), Finding('b', 'y', 'no', FAIL, 'now')
    assert Diagnosis((lacks,)).node_can_run
    both = Diagnosis((lacks, blocks, blocks))
    assert not both.node_can_run
    assert both.advice() == ['now', 'later']
    assert both.as_dict()['findings'][1]['state'] == 'fail'


def test_needed_and_optional_libraries(monkeypatch):
    """Needed and optional libraries are told apart."""
    missing = {'cv2': 'ImportError: libGL', 'torch': 'OSError: libcudart'}
    monkeypatch.setattr(system, 'try_imports',
                        lambda names: {n: Imported('1', missing.get(n, '')) for n in names})
    found = by_name(system.libraries())
    assert (found['cv2'].state, found['torch'].state, found['numpy'].state) == (FAIL, WARN, GOOD)
    assert 'opencv-python-headless' in found['cv2'].advice
    assert found['torch'].text == 'OSError: libcudart: the node fuses classically'


def transport(tmp_path, *, free_mb, rmem_max, environ=(), monkeypatch):
    """Findings for a system with so much room in shared memory and so large UDP buffers."""
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=free_mb * 2 ** 20))
    limit = tmp_path / 'sys/net/core/rmem_max'
    limit.parent.mkdir(parents=True)
    limit.write_text(f'{rmem_max}\n')
    return by_name(ros.transport(dict(environ), shm=tmp_path, proc=tmp_path))


def test_shipped_profile_fits_large_system(tmp_path, monkeypatch):
    """The shipped profile fits a large system."""
    found = transport(tmp_path, free_mb=1000, rmem_max=2 ** 22, monkeypatch=monkeypatch)
    assert {finding.state for finding in found.values()} == {GOOD}
    assert 'a segment of 16 MB' in found['shared memory'].text
    # And the last line of the advice is what a shell takes
    line = found['Fast DDS profile'].advice.splitlines()[-1]
    told = subprocess.run(['bash', '-c', f'{line}; echo "$FASTRTPS_DEFAULT_PROFILES_FILE"'],
                          capture_output=True, text=True)
    assert told.returncode == 0 and Path(told.stdout.strip()).name == 'fastdds.xml'


def test_a_container_has_too_little_room(tmp_path, monkeypatch):
    found = transport(tmp_path, free_mb=20, rmem_max=212_992, monkeypatch=monkeypatch)
    assert found['shared memory'].state is WARN and '--shm-size' in found['shared memory'].advice
    assert found['UDP buffer'].state is WARN
    assert found['UDP buffer'].advice.endswith('sysctl -w net.core.rmem_max=4194304')


def test_user_profile_is_examined(tmp_path, monkeypatch):
    """A profile of the user is looked at."""
    own = tmp_path / 'own.xml'
    own.write_text(find('config/fastdds.xml').read_text().replace('16777216', '524288'))
    found = transport(tmp_path, free_mb=1000, rmem_max=2 ** 22, monkeypatch=monkeypatch,
                      environ={'FASTDDS_DEFAULT_PROFILES_FILE': str(own)})
    assert found['Fast DDS profile'].text == f'FASTDDS_DEFAULT_PROFILES_FILE={own}'
    assert not found['Fast DDS profile'].advice
    assert found['shared memory'].state is WARN and 'segment_size' in found['shared memory'].advice


def test_missing_profile_is_reported(tmp_path):
    """A profile that is not there says so."""
    finding, = ros.transport({'FASTDDS_DEFAULT_PROFILES_FILE': str(tmp_path / 'none.xml')})
    assert finding.state is WARN and 'none.xml' in finding.text


def test_energy_is_reported_or_the_reason(monkeypatch):
    monkeypatch.setattr(system, 'find_meter', lambda: 'no counters')
    finding, = system.energy()
    assert finding.text == 'not reported: no counters'
    monkeypatch.setattr(system, 'find_meter', lambda: SimpleNamespace(source='RAPL package-0'))
    finding, = system.energy()
    assert (finding.text, finding.state) == ('RAPL package-0', GOOD)


class TestJetson:
    """What is active on a board; the board and its libraries are stand-ins."""

    ARCHITECTURES = {'torch': '2.8.0, CUDA 12.6, sm_80, sm_87', 'triton': '3.4.0',
                     'onnxruntime': 'TensorrtExecutionProvider, CPUExecutionProvider'}

    def look(self, monkeypatch, tmp_path, board='NVIDIA Jetson AGX Orin', **libraries):
        """Findings by name; a library of '' is not installed."""
        (tmp_path / 'release').write_text('# R36 (release), REVISION: 4.3, GCID: 1, BOARD: '
                                          'generic\n')
        monkeypatch.setattr(system, 'this_machine', lambda: SimpleNamespace(board=board))
        monkeypatch.setattr(system, 'jetson_release', lambda: jetson_release(tmp_path / 'release'))
        there = self.ARCHITECTURES | libraries
        monkeypatch.setattr(system, 'try_code', lambda code: Imported(
            **{'version' if there[code.split()[1].rstrip(';')] else 'reason':
               there[code.split()[1].rstrip(';')] or 'ModuleNotFoundError'}))
        return by_name(system.jetson())

    def test_other_machines_have_no_such_section(self, monkeypatch, tmp_path):
        assert self.look(monkeypatch, tmp_path, board='a desktop') == {}

    def test_a_complete_orin(self, monkeypatch, tmp_path):
        found = self.look(monkeypatch, tmp_path)
        assert found[
            'board'].text == 'NVIDIA Jetson AGX Orin, Jetson Linux R36.4.3, capability 8.7'
        assert {finding.state for finding in found.values()} == {GOOD}
        assert found['fused kernels'].text == 'active: triton 3.4.0'

    def test_torch_of_another_gpu(self, monkeypatch, tmp_path):
        found = self.look(monkeypatch, tmp_path, torch='2.8.0, CUDA 13.0, sm_90')
        assert found['torch on the GPU'].state is WARN and 'no sm_87' in found[
            'torch on the GPU'].text
        # Code of the same generation that is not newer than the board runs on it.
        found = self.look(monkeypatch, tmp_path, torch='2.11.0, CUDA 13.0, sm_80, sm_90, sm_110')
        assert found['torch on the GPU'].state is GOOD

    def test_torch_from_the_index(self, monkeypatch, tmp_path):
        found = self.look(monkeypatch, tmp_path, torch='no GPU')
        assert "NVIDIA's torch wheel" in found['torch on the GPU'].advice
        assert found['fused kernels'].state is WARN

    def test_without_triton_it_is_an_error(self, monkeypatch, tmp_path):
        found = self.look(monkeypatch, tmp_path, triton='')
        assert found['fused kernels'].state is ERROR and 'aarch64' in found['fused kernels'].advice

    def test_old_board_has_no_kernels(self, monkeypatch, tmp_path):
        """An old board cannot have the kernels."""
        found = self.look(monkeypatch, tmp_path, board='NVIDIA Jetson AGX Xavier',
                          torch='2.1, CUDA 11.4, sm_72')
        assert found['fused kernels'].state is ERROR and 'older than Ampere' in found[
            'fused kernels'].text

    def test_missing_tensorrt_names_install(self, monkeypatch, tmp_path):
        """Without TensorRT it says what to install."""
        found = self.look(monkeypatch, tmp_path, onnxruntime='CPUExecutionProvider')
        assert found['TensorRT'].state is WARN and 'trtexec' in found['TensorRT'].advice


class TestNetwork:
    """Needs torch."""

    @pytest.fixture
    def network(self):
        pytest.importorskip('torch', reason='torch is not installed')
        from diffmf_ros.tools.doctor import network
        return network

    @pytest.mark.parametrize('cuda, tegra, driver, reason, advice', [
        (None, True, False, 'this is a Jetson', "NVIDIA's torch wheel"),
        ('12.6', True, True, 'this is a Jetson', "NVIDIA's torch wheel"),
        (None, False, True, 'built without CUDA', 'a torch build with CUDA'),
        ('13.0', False, True, 'sees no device', 'CUDA 13.0'),
        ('13.0', False, False, 'no NVIDIA driver', ''),
    ])
    def test_why_there_is_no_gpu(self, network, monkeypatch, cuda, tegra, driver, reason, advice):
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        found = network.why_no_gpu(cuda, tegra=tegra, driver=driver)
        assert reason in found[0] and advice in found[1]

    def test_hidden_gpu_is_not_missing(self, network, monkeypatch):
        """A hidden GPU is told from a missing one."""
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
        assert 'unset' in network.why_no_gpu('13.0', tegra=False, driver=True)[1]

    def test_gpus_are_listed(self, network):
        cuda = SimpleNamespace(
            is_available=lambda: True, device_count=lambda: 1,
            get_device_capability=lambda index: (9, 0),
            get_device_name=lambda index: 'H200',
            get_device_properties=lambda index: SimpleNamespace(
                total_memory=140 * 2 ** 30))
        finding, = network.gpus(SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda='12.8')))
        assert finding.text == 'H200, capability 9.0, 140.0 GB, CUDA 12.8'

    def test_raising_driver_gives_reason(self, network):
        """A driver that raises gives its reason."""
        def broken():
            raise RuntimeError('CUDA driver version is insufficient')
        finding, = network.gpus(SimpleNamespace(cuda=SimpleNamespace(is_available=broken)))
        assert finding.state is WARN
        assert finding.text == 'RuntimeError: CUDA driver version is insufficient'

    def test_nameless_import_error_is_shown(self, network, monkeypatch):
        """A module that is not found, by a loader that names none, is told in its words."""
        def refused(*arguments):
            raise ModuleNotFoundError('a loader says no')

        with monkeypatch.context() as patch:
            patch.setattr('builtins.__import__', refused)
            finding, = network.examine()
        assert finding.text.startswith('ModuleNotFoundError: a loader says no')

    def test_one_right_scan_is_enough(self, network, monkeypatch):
        """A wrong scan backend is reported and one right one is enough."""
        from diffmf_ros.inference import selfcheck
        monkeypatch.setattr(selfcheck, 'check', lambda name,
                            **kind: None if name == 'portable' else 'gave NaN')
        found = by_name(network.examine())
        assert (found['scan portable'].state, found['scan reference'].state) == (GOOD, WARN)
        assert 'please report' in found['scan reference'].advice
        assert 'scans' not in found
        assert found['scan auto'].state is GOOD

    def test_plain_torch_error_without_block(self, network, monkeypatch):
        """Plain torch on a GPU is an error that does not block."""
        from diffmf_ros.inference import selfcheck
        choice = selfcheck.Choice({'ssd': 'portable'}, (), 'this GPU runs ssd in plain torch')
        monkeypatch.setattr(selfcheck, 'choose_backends', lambda **kind: choice)
        findings = tuple(network.examine())
        found = by_name(findings)['scan auto']
        assert (found.state, found.text) == (ERROR, 'this GPU runs ssd in plain torch')
        assert 'this GPU runs ssd in plain torch' in Diagnosis(findings).advice()

    def test_missing_mamba_parts_are_listed(self, network, monkeypatch):
        """Every missing part of mamba_ssm is listed."""
        from diffmf_ros.models.kernels import mamba_ssm
        monkeypatch.setattr(mamba_ssm, 'missing', lambda: ('no extension', 'no chunk scan'))
        parts = [finding for finding in network.examine() if finding.name == 'mamba_ssm']
        assert [(part.text, part.state) for part in parts] == [('no extension', WARN),
                                                               ('no chunk scan', WARN)]

    def test_no_right_scan_backend_blocks(self, network, monkeypatch):
        from diffmf_ros.inference import selfcheck
        monkeypatch.setattr(selfcheck, 'check', lambda name, **kind: 'gave NaN')
        found = by_name(network.examine())
        assert found['scans'].state is FAIL

    def test_shipped_weights_are_verified(self, network):
        found = by_name(network.examine())
        assert found['diffmf_light'].state is GOOD
        assert 'checksum matches' in found['diffmf_nano'].text

    def test_damaged_and_missing_weights(self, network, monkeypatch, tmp_path):
        from diffmf_ros.inference import weights_header
        (tmp_path / 'diffmf_base.safetensors').write_bytes(b'nothing')
        monkeypatch.setattr(weights_header, 'SHIPPED', tmp_path)
        found = by_name(network.examine())
        assert found['diffmf_base'].state is WARN
        assert found['diffmf_nano'].state is FAIL
        assert 'does not exist' in found['diffmf_nano'].text


def run_doctor():
    """Return the exit code and the report of the command."""
    done = subprocess.run([sys.executable, '-m', 'diffmf_ros.cli.main', 'doctor', '--json'],
                          capture_output=True, text=True, cwd=Path(__file__).parents[2],
                          check=False)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize('words, printed', [((), True), (('-',), True), (('a.json',), False)])
def test_json_is_printed_or_written(tmp_path, monkeypatch, capsys, words, printed):
    """A name behind --json is the file, else the report is printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('diffmf_ros.tools.doctor.examine', lambda: Diagnosis(()))
    run(['doctor', '--json', *words])
    out = capsys.readouterr().out
    report = out if printed else Path('a.json').read_text()
    assert json.loads(report) == Diagnosis(()).as_dict() and len(list(tmp_path.iterdir())) < 2


def test_kernel_cache_warm_or_cold(tmp_path, monkeypatch):
    """Doctor says whether the kernels of a GPU are compiled and checked."""
    pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros.inference import selfcheck
    from diffmf_ros.tools.doctor.network import kernel_cache

    # given a GPU that nothing ran on
    monkeypatch.setattr(selfcheck, 'machine', lambda: 'a GPU')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path / 'triton'))
    cold = kernel_cache()
    assert cold.state is WARN and 'no compiled kernel' in cold.text
    assert 'diffmf bench --preset light' in cold.advice
    # when kernels were compiled, and one has passed its check
    folder = tmp_path / 'triton' / 'HASH'
    folder.mkdir(parents=True)
    (folder / 'outputs.cubin').write_bytes(b'')
    assert 'no passed check' in kernel_cache().text
    selfcheck.remember({'triton ss2d'})
    # then it is warm
    warm = kernel_cache()
    assert warm.state is GOOD and warm.text.startswith('warm: 1 compiled kernels')


@pytest.mark.slow
def test_exit_code_says_can_run(domain):
    """The exit code says whether the node can run."""
    code, report = run_doctor()
    assert code == (0 if report['node_can_run'] else 1)
    sections = dict.fromkeys(finding['section'] for finding in report['findings'])
    assert list(sections) == ['machine', 'libraries', 'network', 'weights', 'ros', 'transport',
                              'energy']
    assert {finding['state'] for finding in report['findings']} <= {'good', 'warn', 'fail'}


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
    """Exit code and report where neither torch nor rclpy can be imported."""
    folder = tmp_path_factory.mktemp('broken')
    (folder / 'torch.py').write_text('raise OSError("libcudart.so.12: cannot open shared object '
                                     'file")')
    (folder / 'rclpy.py').write_text('raise ImportError("librcl.so: undefined symbol")')
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv('PYTHONPATH', str(folder))
        return run_doctor()


@pytest.mark.slow
def test_without_torch_the_node_still_runs(broken):
    _, report = broken
    texts = [finding['text'] for finding in report['findings'] if finding['name'] == 'torch']
    assert len(texts) == 2 and all('OSError: libcudart.so.12' in text for text in texts)
    assert 'torch' not in [finding['name'] for finding in report['findings']
                           if finding['state'] == 'fail']


@pytest.mark.slow
def test_missing_rclpy_exits_1(broken):
    """Without rclpy the exit code is 1."""
    code, report = broken
    assert code == 1 and not report['node_can_run']
    assert 'setup.bash' in report['advice'][0]
