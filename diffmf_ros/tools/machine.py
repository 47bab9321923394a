# SPDX-License-Identifier: Apache-2.0
"""What this machine is, what memory a process took, and the energy that the machine says it used:
RAPL counters of x86, power sensors of Jetson boards, idle power included. Read from Linux' own
files."""

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# Extensions that decide which kernel or precision is fast, as /proc/cpuinfo spells them (x86, then
# ARM).
EXTENSIONS = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16', 'asimd', 'sve', 'bf16')


@dataclass(frozen=True)
class Machine:
    """cores: that this process may use; extensions: those of EXTENSIONS that the processor has."""

    cpu: str
    cores: int
    extensions: tuple[str, ...]
    memory_gb: float
    board: str
    os: str

    def __str__(self):
        where = f' ({self.board})' if self.board else ''
        return f'{self.cpu}{where}, {self.cores} cores'


def this_machine(root: Path = Path('/')) -> Machine:
    """Return what the files under root (proc, etc) say; what they do not say is '' or 0."""
    cpuinfo = _text(root / 'proc/cpuinfo')
    kilobytes = re.search(r'^MemTotal:\s*(\d+)', _text(root / 'proc/meminfo'), re.M)
    flags = set(_entry(cpuinfo, 'flags|Features').split())
    return Machine(
        cpu=_entry(cpuinfo, 'model name|Model') or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        extensions=tuple(name for name in EXTENSIONS if name in flags),
        memory_gb=int(kilobytes[1]) / 2 ** 20 if kilobytes else 0.0,
        board=_text(root / 'proc/device-tree/model').strip('\0\n '),
        os=_system(_text(root / 'etc/os-release')))


def peak_memory_mb(pid: int | str = 'self') -> float:
    """Return the peak resident memory of a process in MiB.

    Not ru_maxrss: that starts at what the parent used.
    """
    status = Path(f'/proc/{pid}/status').read_text()
    return int(re.findall(r'VmHWM:\s*(\d+)', status)[0]) / 1024


def _text(path: Path) -> str:
    try:
        return path.read_text(errors='replace').strip()
    except OSError:
        return ''


def _entry(text: str, names: str) -> str:
    found = re.search(rf'^(?:{names})\s*:\s*(.*)$', text, re.M)
    return found[1].strip() if found else ''


def _system(os_release: str) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', os_release, re.M)
    return f'{name[1] if name else platform.system()}, {platform.machine()}'


# a rail that feeds the others; without one the rails are added
WHOLE_BOARD = ('VDD_IN', 'POM_5V_IN', 'VIN')


@dataclass(frozen=True)
class Rail:
    """One rail of a board: watts() reads its power now."""

    name: str
    watts: Callable[[], float]


class CounterMeter:
    """Joules from counters in microjoules that wrap round (Linux powercap, `energy_uj`)."""

    def __init__(self, zones: list[Path]):
        self.source = 'RAPL ' + ', '.join(_text(zone / 'name') for zone in zones)
        self._zones = [(zone / 'energy_uj', int(_text(zone / 'max_energy_range_uj')))
                       for zone in zones]
        self._last = [_number(path) for path, _ in self._zones]
        self._joules = 0.0

    def joules(self) -> float:
        """Energy since this meter was made.

        Call it more often than the counter wraps (about a minute).
        """
        now = [_number(path) for path, _ in self._zones]
        self._joules += 1e-6 * sum((new - old) % (limit + 1) for new, old, (_, limit) in
                                   zip(now, self._last, self._zones))
        self._last = now
        return self._joules


class PowerMeter:
    """Joules from power sensors, by the trapezoid rule between two calls."""

    def __init__(self, rails: list[Rail], clock: Callable[[], float] = time.perf_counter):
        self.source = 'INA3221 ' + ', '.join(rail.name for rail in rails)
        self._rails, self._clock = rails, clock
        self._last, self._joules = (clock(), self._watts()), 0.0

    def joules(self) -> float:
        """Energy since this meter was made."""
        now = self._clock(), self._watts()
        self._joules += (now[0] - self._last[0]) * (now[1] + self._last[1]) / 2
        self._last = now
        return self._joules

    def _watts(self) -> float:
        return sum(rail.watts() for rail in self._rails)


def find_meter(sys: Path = Path('/sys')) -> CounterMeter | PowerMeter | str:
    """Return a meter of this machine, or why there is none."""
    rails = [*_hwmon_rails(sys), *_iio_rails(sys)]
    if rails:
        whole = [rail for rail in rails if rail.name in WHOLE_BOARD]
        return PowerMeter(whole or rails)
    # A zone of a package; its own parts are intel-rapl:0:1 and so on.
    zones = [zone for zone in sorted(sys.glob('class/powercap/intel-rapl:*'))
             if zone.name.count(':') == 1]
    if not zones:
        return 'this machine has neither RAPL counters nor INA3221 sensors'
    closed = [zone for zone in zones if not os.access(zone / 'energy_uj', os.R_OK)]
    if closed:
        return f'{closed[0] / "energy_uj"} is readable for root only'
    return CounterMeter(zones)


def _hwmon_rails(sys: Path) -> list[Rail]:
    """Rails of the INA3221 driver since JetPack 5: millivolts and milliamperes."""
    rails = []
    for sensor in sorted(sys.glob('class/hwmon/hwmon*')):
        if _text(sensor / 'name') != 'ina3221':
            continue
        for channel in (1, 2, 3):
            volts, amperes = sensor / f'in{channel}_input', sensor / f'curr{channel}_input'
            label = _text(sensor / f'in{channel}_label')
            if label not in ('', 'NC') and volts.exists() and amperes.exists():
                rails.append(Rail(label, partial(_watts, volts, amperes)))
    return rails


def _iio_rails(sys: Path) -> list[Rail]:
    """Rails of JetPack 4: milliwatts."""
    rails = []
    for power in sorted(sys.glob('bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input')):
        channel = power.name.removeprefix('in_power').removesuffix('_input')
        rails.append(Rail(_text(power.with_name(f'rail_name_{channel}')),
                          partial(_milliwatts, power)))
    return rails


def _watts(volts: Path, amperes: Path) -> float:
    """Return the power of millivolts and milliamperes."""
    return 1e-6 * _number(volts) * _number(amperes)


def _milliwatts(power: Path) -> float:
    return 1e-3 * _number(power)


def _number(path: Path) -> int:
    return int(path.read_text())
