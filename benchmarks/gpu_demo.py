# SPDX-License-Identifier: Apache-2.0
"""The real node over DDS at 30 Hz, with a rendered drive of 6 s at full working size: pairs fused,
latency."""

import argparse
import json
import re
import tempfile
from pathlib import Path

from diffmf_ros.core.settings import DEFAULTS, with_changes
from diffmf_ros.tools import demo
from diffmf_ros.tools.synthetic.drive import Drive, DriveSettings
from diffmf_ros.tools.synthetic.record import record, recorded_drive

SECONDS, RATE_HZ = 6.0, 30
STAND_IN_SCALE = 0.25


def main() -> None:
    """Render, play, and write what the node reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--preset', default='light')
    parser.add_argument('--device', choices=('cuda', 'cpu'), default='cuda')
    parser.add_argument('--json', type=Path, required=True)
    parser.add_argument('--seconds', type=float, default=SECONDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bag = folder / 'bag'
        drive = Drive(DriveSettings(seconds=options.seconds, thermal_rate_hz=RATE_HZ,
                                    thermal_bits=16))
        for _ in record(drive, bag):
            pass
        recorded = recorded_drive(bag)
        wanted = {'model': 'diffmf', 'preset': options.preset, 'device': options.device,
                  'warm_up_size': '640x480', 'alignment.file': str(recorded.alignment),
                  'sync.thermal_offset_ms': recorded.thermal_offset_ms}
        if options.device == 'cpu':  # which stands in for a GPU
            wanted['scale'] = STAND_IN_SCALE
        values = demo.run(demo.DemoRun((bag,), folder / 'fused', folder / 'log', 1.0,
                                       with_changes(DEFAULTS, wanted)))
    figures = {'fused': int(values['fused']), 'pairs': options.seconds * RATE_HZ,
               'latency_p50_ms': first_number(values.get('latency_p50_ms', '')),
               'values': values}
    options.json.write_text(json.dumps(figures, indent=1))
    print(json.dumps(values, indent=1))


def first_number(text: str) -> float | None:
    """The first number of a text, or None."""
    found = re.search(r'[-+.\d]+', text)
    return float(found[0]) if found else None


if __name__ == '__main__':
    main()
