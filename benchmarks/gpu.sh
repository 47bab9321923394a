#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that needs a GPU, on a bare machine with CUDA, in order of worth: gpu.sh [PART ...]
# PART is the beginning of a part's name (first, start, demo, full, scans, tests, train); without any all run, and
# training takes the time that is left. The same call again goes on where the last one stopped: see gpu_run.py.
#   OUT        folder of gpu.json, gpu.md and the logs (default out/gpu)
#   MINUTES    after which everything is over (default 14)
#   PYTHON     interpreter that has torch with CUDA (default: .venv/bin/python if there, else python3)
#   PACK       archive of offline_pack.py, for a machine without a network: wheels, and pairs to train on
#   DATA       folder of training pairs (default: those of PACK)
#   RECIPE     of config/train: diffmf_base (default), s4fusion_base, refinefuse_base ...
#   MAMBA_SSM  folder of the unpacked source distribution of mamba-ssm, to compare scans with
#   DEVICE     cuda (default), or cpu to try the script where there is no GPU
set -euo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-out/gpu}
device=${DEVICE:-cuda}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
"$python" -c 'import torch' || { echo "$python has no torch: set PYTHON to one that has a CUDA build of it" >&2; exit 1; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
data=${DATA:-}
if [ -n "${PACK:-}" ]; then
    [ -d "$out/pack/wheels" ] || { mkdir -p "$out/pack" && tar -xf "$PACK" -C "$out/pack" &&
        tar -xJf "$out/pack/wheels.tar.xz" -C "$out/pack"; }
    [ -n "$data" ] || [ ! -d "$out/pack/data" ] || data=$out/pack/data
fi

# An environment of its own, with this machine's torch and whatever else it has, which stays as it is. Packages of ROS
# are found by the prefix of their environment, so that a mere folder of packages will not do.
purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
if [ ! -s "$("$out/venv/bin/python" -c "$purelib" 2> /dev/null)/machine.pth" ]; then
    "$python" -m venv --without-pip "$out/venv"
    "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith(("site-packages", "dist-packages"))), sep="\n")' \
        > "$("$out/venv/bin/python" -c "$purelib")/machine.pth"
fi
python=$out/venv/bin/python
pip=("$python" -m pip --disable-pip-version-check)  # the machine's, which installs into the environment
missing=$("$python" - <<'END'
from importlib.util import find_spec
names = {'cv2': 'opencv-python-headless', 'yaml': 'PyYAML', 'safetensors': 'safetensors', 'einops': 'einops',
         'rosbags': 'rosbags', 'typer': 'typer', 'rich': 'rich', 'pytest': 'pytest', 'pytest_timeout': 'pytest-timeout',
         'hypothesis': 'hypothesis', 'rclpy': 'ros-rclpy[fastrtps] ros-sensor-msgs ros-diagnostic-msgs ros-std-srvs'}
print(*(package for module, package in names.items() if find_spec(module) is None))
END
)
if [ -n "$missing" ]; then
    echo "installing into $out/venv, for want of $missing"
    # shellcheck disable=SC2206 # a list of names
    wanted=($missing) options=()
    # An archive has all that belongs to what is missing, but for what the machine has.
    [ -z "${PACK:-}" ] || { wanted=("$out"/pack/wheels/*.whl) options=(--no-index --no-deps); }
    install() { "${pip[@]}" install -q "${options[@]}" "$@"; }
    # Without rclpy, or whatever else does not fit, all that does not need it runs.
    install "${wanted[@]}" || for package in "${wanted[@]}"; do
        install "$package" || echo "not installed: $package" >&2
    done
fi

exec "$python" benchmarks/gpu_run.py --out "$out" --minutes "${MINUTES:-14}" --device "$device" \
    ${data:+--data "$data"} ${RECIPE:+--recipe "$RECIPE"} ${MAMBA_SSM:+--mamba-ssm "$MAMBA_SSM"} ${1:+--only "$@"}
