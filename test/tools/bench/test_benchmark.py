# SPDX-License-Identifier: Apache-2.0
"""The benchmark: turns, statistics on known numbers, JSON, energy counters, and a start in its own
process."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from diffmf_ros.cli import bench
from diffmf_ros.core.frames import DiffmfError
from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.io.writing import WriteError
from diffmf_ros.tools import machine
from diffmf_ros.tools.bench import benchmark
from diffmf_ros.tools.bench import report as bench_report
from diffmf_ros.tools.bench.benchmark import Benchmark, Configuration, Startup
from diffmf_ros.tools.bench.report import BenchRow, Floor, Report, frame_metrics
from diffmf_ros.tools.machine import Machine, this_machine

CLASSICAL = with_changes(DEFAULTS, {'model': 'classical'})
MACHINE = Machine('a processor', 2, ('avx2',), 8.0, '', 'an OS')


def row(network_ms, *, size=(640, 480), preset='light', floor_ms=10.0, color_ms=1.0):
    """A row with made-up samples of two stages."""
    configuration = Configuration(with_changes(DEFAULTS, {'preset': preset}), size)
    stages = {'color': [color_ms] * len(network_ms), 'network': list(network_ms)}
    timings = Benchmark(configuration, 'cpu float32', stages, 1.9, 'no counters', 'abc')
    return BenchRow(timings, Startup(2.0, 500.0, None), Floor(floor_ms, 1e9, 1e8, 1e11, 1e10))


def test_configurations_take_turns(monkeypatch):
    # given two configurations that record when they fuse
    order = []
    monkeypatch.setattr(benchmark, 'fuse_messages',
                        lambda pipeline, messages: order.append(messages[0]['width'])
                        or {'network': 1.0})
    a, b = (Configuration(CLASSICAL, (width, 8)) for width in (10, 20))
    done = []

    # when they are compared
    a_result, b_result = benchmark.compare([a, b], frames=3, report=done.append)

    # then they alternated, the warm-up included, and only the frames after it count
    assert order == [10, 20] * (3 + benchmark.WARM_UP)
    assert (a_result.stages_ms, b_result.stages_ms) == ({'network': [1.0] * 3},) * 2
    assert (a_result.configuration, b_result.configuration) == (a, b)
    assert done == [0, 0, 1, 2, 3]


def test_a_pair_goes_through_every_stage():
    result = benchmark.measure(CLASSICAL, size=(64, 48), frames=3)
    assert {'decode', 'align', 'network', 'color'} <= set(result.stages_ms)
    assert all(len(samples) == 3 and min(samples) > 0 for samples in result.stages_ms.values())
    assert result.busy_cores > 0
    assert result.totals_ms() == pytest.approx(np.sum(list(result.stages_ms.values()), axis=0))


def test_warned_result_is_not_measured():
    """A result with warnings is not what was to be measured."""
    class Pipeline:
        def fuse(self, pair):
            return type('Result', (), {'warnings': ('fused classically',), 'timings_ms': {}})

    with pytest.raises(DiffmfError, match='fused classically'):
        benchmark.fuse_messages(Pipeline(), benchmark.raw_images((8, 8)))


def test_input_repeats_every_time():
    """The input is the same every time."""
    rgb, thermal = benchmark.raw_images((64, 48))
    assert (rgb['encoding'], len(rgb['data'])) == ('rgb8', 64 * 48 * 3)
    assert (thermal['encoding'], len(thermal['data'])) == ('mono16', 32 * 24 * 2)
    assert benchmark.raw_images((64, 48)) == (rgb, thermal)
    first, second = (benchmark.measure(CLASSICAL, size=(16, 8), frames=1).input_sha256
                     for _ in range(2))
    assert first == second and len(first) == 64


def test_untrained_presets_get_fresh_weights(tmp_path, monkeypatch):
    """Presets without trained weights get fresh ones."""
    # given an installation without any trained weights
    pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros.inference import weights, weights_header
    monkeypatch.setattr(weights_header, 'SHIPPED', tmp_path)
    nano = Configuration(with_changes(DEFAULTS, {'preset': 'nano'}), (64, 48))
    namesakes = [Configuration(with_changes(DEFAULTS, {'model': model}), (64, 48))
                 for model in ('diffmf', 's4fusion')]
    # when configurations are made ready
    with benchmark.with_weights([nano, Configuration(CLASSICAL, (64, 48)), *namesakes]) as (
            fresh, classical, *two):
        # then each network gets a file of its own that loads, for as long as it is needed
        assert weights.load_weights(fresh.settings.weights).preset == 'nano'
        assert [weights.load_weights(one.settings.weights).model
                for one in two] == ['diffmf', 's4fusion']
        assert not fresh.trained
    assert not Path(fresh.settings.weights).exists()
    assert classical == Configuration(CLASSICAL, (64, 48))


def test_metrics_of_known_latencies():
    # given frames of 10, 20, 40 and 30 ms, so arrivals at 10, 30, 70 and 100 ms
    metrics = frame_metrics([10, 20, 40, 30])
    # then intervals are 20, 40, 30 ms and the jitter 20 and 10 ms
    assert metrics['RECEIVED_DURATION'] == 90
    assert metrics['MEAN_FRAME_RATE'] == pytest.approx(3 / 0.09)
    assert (metrics['MIN_JITTER'], metrics['MEAN_JITTER'], metrics['MAX_JITTER']) == (10, 15, 20)
    assert metrics['STD_DEV_JITTER'] == 5
    assert (metrics['FIRST_INPUT_LATENCY'], metrics['LAST_INPUT_LATENCY']) == (10, 30)
    assert (metrics['MIN_LATENCY'], metrics['MEAN_LATENCY'],
            metrics['MAX_LATENCY']) == (10, 25, 40)
    assert (metrics['P50_LATENCY'], metrics['P99_LATENCY']) == (25, pytest.approx(39.7))
    assert (metrics['NUM_FRAMES_SENT'], metrics['NUM_MISSED_FRAMES']) == (4, 0)


def test_one_frame_has_no_rate():
    """One frame has neither rate nor jitter."""
    metrics = frame_metrics([10])
    assert metrics['MEAN_LATENCY'] == 10
    assert not {'MEAN_FRAME_RATE', 'MEAN_JITTER'} & set(metrics)


def test_ratios_are_medians_per_size():
    """Ratios are medians against the first of the same size."""
    slow, fast = row([99, 9, 100]), row([49, 500, 10])
    large = row([400, 400, 400], size=(1280, 960))
    report = Report(MACHINE, {}, [slow, fast, large])
    assert report.speed_up(slow) == 1
    assert report.speed_up(fast) == 2  # (99 + 1) / (49 + 1): the outliers do not count
    assert report.speed_up(large) == 1
    assert fast.times_floor == pytest.approx(4.9)


def test_problems_come_before_the_tables(capsys):
    # given one row on a GPU that runs something in plain torch, in a report of two
    problem = 'this GPU runs ssd in plain torch, which costs much time'
    slow = row([20, 30])
    report = Report(MACHINE, {},
                    [row([20, 30]),
                     replace(slow, timings=replace(slow.timings, problems=(problem,)))])
    # when it is shown, then the first line says so
    bench._show(Console(width=80), report)
    assert capsys.readouterr().out.splitlines()[0] == f'ERROR: {problem}'


def test_json_holds_host_and_percentiles():
    """JSON holds host config input and percentiles."""
    report = Report(MACHINE, {'python': '3.11'}, [row([20, 30, 40])], ['a note'])
    whole = json.loads(report.as_json())
    assert whole['format'] == bench_report.FORMAT
    assert whole['host']['cpu'] == 'a processor' and whole['host']['versions'] == {
        'python': '3.11'}
    assert whole['notes'] == ['a note']
    result, = whole['results']
    assert set(result) == {
        'name', 'size', 'runs_on', 'trained_weights', 'config', 'input_sha256', 'metrics',
        'stages_ms', 'speed_up',
        'busy_cores', 'joules_per_frame', 'startup', 'problems', 'floor'}
    assert result['config']['preset'] == 'light' and result['config'][
        'sync.max_distance_ms'] == 25.0
    assert result['stages_ms']['network'] == {'p50': 30, 'p99': pytest.approx(39.8),
                                              'samples': [20, 30, 40]}
    assert result['metrics']['MEAN_LATENCY'] == 31
    assert result['floor']['times_floor'] == 3 and result['floor']['operations'] == 1e9
    assert result['startup'] == {'first_frame_s': 2.0, 'peak_memory_mb': 500.0,
                                 'device_memory_mb': None}
    assert result['joules_per_frame'] == 'no counters'


def test_floor_for_networks_only(monkeypatch):
    """A network has a floor and the classical method none."""
    # given a device of 1 T operations and 10 GB a second, measured once for both sizes
    roofs = pytest.importorskip('diffmf_ros.tools.bench.roofs', reason='torch is not installed')
    calls = []
    monkeypatch.setattr(roofs, 'measure_roofs', lambda device,
                        dtype: calls.append(device) or roofs.Roofs(
        device, 'float32', 1e12, 10e9, 4))
    light = with_changes(DEFAULTS, {'preset': 'light', 'precision': 'float32'})
    configurations = [Configuration(CLASSICAL, (640, 480)), Configuration(light, (640, 480)),
                      Configuration(light, (320, 240))]
    # when their floors are asked for
    none, whole, quarter = bench_report._floors(configurations, [])
    # then bytes bound the network: 6.2 GB in float32
    assert none is None
    assert whole.bytes_moved == pytest.approx(6.2e9, rel=0.02)
    assert whole.floor_ms == pytest.approx(whole.bytes_moved / 10e6)
    assert quarter.floor_ms == pytest.approx(whole.floor_ms / 4, rel=1e-3)
    assert len(calls) == 1


def test_missing_torch_means_no_floors(monkeypatch):
    """Without torch there are no floors and a note."""
    monkeypatch.setitem(sys.modules, 'diffmf_ros.tools.bench.roofs', None)
    notes = []
    onnx = with_changes(DEFAULTS, {'engine': 'onnx'})
    assert bench_report._floors([Configuration(onnx, (64, 48))], notes) == [None]
    assert 'no floors: they need torch' in notes[0]


@pytest.mark.slow
def test_start_measured_in_own_process():
    """Start is measured in a process of its own."""
    # given a process that has used more memory than fusing a small pair takes
    ballast = np.ones(600 * 2 ** 20, np.uint8)
    # when the start of a small classical configuration is measured
    measured = benchmark.measure_startup(Configuration(CLASSICAL, (64, 48)))
    # then neither the ballast nor torch is in it
    assert 20 < measured.peak_memory_mb < 200 < ballast.nbytes / 2 ** 20
    assert 0 < measured.first_frame_s < 30
    assert measured.device_memory_mb is None


def test_a_start_that_fails_says_why():
    missing = with_changes(DEFAULTS, {'model': 'classical', 'alignment.file': '/nowhere.yaml'})
    with pytest.raises(DiffmfError, match='/nowhere.yaml'):
        benchmark.measure_startup(Configuration(missing, (64, 48)))


def test_plot_lines_differ_in_size():
    """Lines of the plot differ in size alone."""
    rows = [row([4], size=(640, 480)), row([1], size=(320, 240)), row([2], preset='nano')]
    lines = bench_report.lines(Report(MACHINE, {}, rows))
    assert list(lines) == ['diffmf light, cpu float32', 'diffmf nano, cpu float32']
    assert lines['diffmf light, cpu float32'] == [rows[1], rows[0]]


def test_plot_is_written(tmp_path):
    pytest.importorskip('matplotlib', reason='matplotlib is not installed')
    report = Report(MACHINE, {}, [row([4, 5], size=(320, 240)), row([16, 18])])
    bench_report.write_plot(tmp_path / 'plot.png', report)
    assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')
    with pytest.raises(WriteError, match='plot.bmp5.*write .*plot.png'):
        bench_report.write_plot(tmp_path / 'plot.bmp5', report)


def test_missing_matplotlib_names_install(monkeypatch):
    """Plot without matplotlib says how to get it."""
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(bench_report.PlotError, match='pip install matplotlib'):
        bench_report.figure_class()


def write(path: Path, text) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{text}\n')


def rapl(tmp_path, name, microjoules):
    """A package of two domains, the second of which is part of the first."""
    for zone in (name, f'{name}:0'):
        write(tmp_path / f'class/powercap/{zone}/name', 'package-0')
        write(tmp_path / f'class/powercap/{zone}/max_energy_range_uj', 9_999_999)
        write(tmp_path / f'class/powercap/{zone}/energy_uj', microjoules)
    return tmp_path / f'class/powercap/{name}/energy_uj'


def test_rapl_counters_add_and_wrap(tmp_path):
    """RAPL counters are added and may wrap."""
    first, second = rapl(tmp_path, 'intel-rapl:0', 1_000_000), rapl(tmp_path, 'intel-rapl:1',
                                                                    9_500_000)
    meter = machine.find_meter(tmp_path)
    first.write_text('3000000')
    second.write_text('500000')
    assert meter.joules() == pytest.approx(2 + 1)
    first.write_text('3500000')
    assert meter.joules() == pytest.approx(3.5)
    assert meter.source == 'RAPL package-0, package-0'


def test_root_only_counters_give_reason(tmp_path, monkeypatch):
    """Counters for root only are a reason."""
    rapl(tmp_path, 'intel-rapl:0', 1)
    monkeypatch.setattr(machine.os, 'access', lambda path, mode: False)
    assert 'root only' in machine.find_meter(tmp_path)


def test_jetson_rails_give_power(tmp_path):
    sensor = tmp_path / 'class/hwmon/hwmon3'
    write(sensor / 'name', 'ina3221')
    for channel, rail, amperes in ((1, 'VDD_IN', 2000), (2, 'VDD_CPU_GPU_CV', 1000), (3, 'NC', 1)):
        write(sensor / f'in{channel}_label', rail)
        write(sensor / f'in{channel}_input', 5000)
        write(sensor / f'curr{channel}_input', amperes)

    meter = machine.find_meter(tmp_path)
    assert meter.source == 'INA3221 VDD_IN'  # it feeds the other rails
    now = iter([0.0, 2.0])
    rails = machine._hwmon_rails(tmp_path)
    assert [rail.name for rail in rails] == ['VDD_IN', 'VDD_CPU_GPU_CV']
    both = machine.PowerMeter(rails, clock=lambda: next(now))
    write(sensor / 'curr1_input', 4000)
    assert both.joules() == pytest.approx(2.0 * (15 + 25) / 2)


def test_milliwatts_of_jetpack_4(tmp_path):
    write(tmp_path / 'bus/i2c/drivers/ina3221x/1-0040/iio:device0/rail_name_0', 'POM_5V_IN')
    write(tmp_path / 'bus/i2c/drivers/ina3221x/1-0040/iio:device0/in_power0_input', 4200)
    rail, = machine._iio_rails(tmp_path)
    assert (rail.name, rail.watts()) == ('POM_5V_IN', pytest.approx(4.2))


def test_no_sensors_is_a_reason(tmp_path):
    assert 'neither RAPL' in machine.find_meter(tmp_path)


def test_machine_is_read_from_linux(tmp_path):
    write(tmp_path / 'proc/cpuinfo',
          'model name\t: ARMv8 Processor rev 1\nFeatures\t: fp asimd bf16')
    write(tmp_path / 'proc/meminfo', 'MemTotal:       16777216 kB')
    write(tmp_path / 'proc/device-tree/model', 'NVIDIA Jetson AGX Orin\0')
    write(tmp_path / 'etc/os-release', 'NAME=x\nPRETTY_NAME="Ubuntu 22.04"')
    machine = this_machine(tmp_path)
    assert machine.cpu == 'ARMv8 Processor rev 1'
    assert machine.extensions == ('asimd', 'bf16')
    assert machine.memory_gb == 16
    assert machine.os.startswith('Ubuntu 22.04, ')
    assert str(machine) == f'ARMv8 Processor rev 1 (NVIDIA Jetson AGX Orin), {machine.cores} cores'
