#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All GPU work in one script, for a bare machine with CUDA: gpu.sh [tests|kernels|engine|all|train] [FOLDER]
# Logs and JSON go to FOLDER (default out/gpu). Each part ends within 10 minutes; train, which is not in all, trains
# RECIPE into FOLDER/RECIPE for 9 minutes and goes on there in the next call.
#   PYTHON     interpreter that has torch with CUDA (default: .venv/bin/python if there, else python3)
#   RECIPE     of config/train: diffmf_base (default), s4fusion_base, refinefuse_base ...
#   DATA       folder of training pairs (default: the one that the recipe names)
#   MAMBA_SSM  folder of the unpacked source distribution of mamba-ssm, to compare kernels with
set -u -o pipefail
cd "$(dirname "$0")/.."

part=${1:-all}
out=${2:-out/gpu}
case $part in tests|kernels|engine|all|train) ;; *)
    echo "unknown part '$part': expected tests, kernels, engine, all or train" >&2
    exit 2 ;;
esac

python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
"$python" - <<'EOF' || exit 1
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f'{sys.executable} has no torch ({error}); set PYTHON to one that has a CUDA build of it')
if not torch.cuda.is_available():
    sys.exit(f'no GPU: torch {torch.__version__} sees no CUDA device; nothing was run')
print(torch.cuda.get_device_name(), 'torch', torch.__version__, 'CUDA', torch.version.cuda)
EOF

mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

# Only what is missing is installed, beside this machine's torch, which stays as it is.
missing=$("$python" - <<'EOF'
from importlib.util import find_spec
names = {'cv2': 'opencv-python-headless', 'yaml': 'PyYAML', 'safetensors': 'safetensors', 'einops': 'einops',
         'rosbags': 'rosbags', 'typer': 'typer', 'rich': 'rich', 'pytest': 'pytest', 'pytest_timeout': 'pytest-timeout',
         'hypothesis': 'hypothesis'}
print(*(package for module, package in names.items() if find_spec(module) is None))
EOF
)
if [ -n "$missing" ]; then
    echo "installing into $out/site: $missing"
    # shellcheck disable=SC2086 (a list of names)
    "$python" -m pip install -q --target "$out/site" $missing ||
        { echo "these Python packages are missing and could not be installed: $missing" >&2; exit 1; }
    export PYTHONPATH="$PYTHONPATH:$out/site"
fi

status=0
run() {  # run NAME COMMAND...: at most 10 minutes, everything also in FOLDER/NAME.log
    local name=$1
    shift
    echo "== $name"
    timeout --kill-after=10 590 "$@" 2>&1 | tee "$out/$name.log"
    local code=${PIPESTATUS[0]}
    [ "$code" -eq 0 ] || { echo "== $name ended with $code" | tee -a "$out/$name.log"; status=1; }
}

tests() {
    # shellcheck disable=SC2046 (one word a file)
    run tests "$python" -m pytest -q -rs -p no:cacheprovider $(grep -l cuda test/test_*.py)
}

kernels() {
    [ -n "${MAMBA_SSM:-}" ] || echo "MAMBA_SSM is not set: kernels are not compared with mamba_ssm"
    run kernels "$python" benchmarks/gpu_scan.py ${MAMBA_SSM:+"$MAMBA_SSM"} --json "$out/kernels.json"
}

engine() {
    run engine "$python" benchmarks/gpu_engine.py --json "$out/engine.json"
}

train() {  # 50 seconds are left for the start, the compiler and the last checkpoint
    local recipe=${RECIPE:-diffmf_base}
    run "$recipe" "$python" -m diffmf_ros.cli.main train "config/train/$recipe.yaml" --out "$out/$recipe" \
        --minutes 9 ${DATA:+--data "$DATA"}
}

if [ "$part" = all ]; then tests; kernels; engine; else "$part"; fi
echo "written to $out"
exit $status
