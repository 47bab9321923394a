# SPDX-License-Identifier: Apache-2.0
"""Everything about the distribution: Humble's setuptools (59) reads no [project] table of
pyproject.toml."""

import platform
from glob import glob
from pathlib import Path

from setuptools import Extension, find_packages, setup

NAME = 'diffmf_ros'
README = Path('README.md')
EXTRAS = {
    'torch': ['torch>=2.4', 'einops'],
    'mamba': ['mamba-ssm'],
    'triton': ['triton>=3.4'],
    'onnx': ['onnx', 'onnxscript', 'onnxruntime'],
    'view': ['matplotlib'],
    'ray': ['ray>=2.9'],
    'rerun': ['rerun-sdk>=0.23'],
    # One distribution, exactly: the names are shared by several. Never on a machine with a ROS
    # installation.
    'ros': ['ros-rclpy[fastrtps]==9.1.2', 'ros-sensor-msgs==5.5.1', 'ros-diagnostic-msgs==5.5.1',
            'ros-std-srvs==5.5.1'],
    'docs': ['mkdocs-material'],
    'test': ['pytest', 'pytest-timeout', 'hypothesis'],  # by this name colcon test takes pytest
    'dev': ['pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'ruff', 'mypy',
            'types-PyYAML'],
}

# Instruction sets, as suffix of the extension and compiler option; cpu.py loads the widest that
# the processor has.
INSTRUCTIONS = {'': []}
if platform.machine() in ('x86_64', 'AMD64'):
    INSTRUCTIONS |= {'_v3': ['-march=x86-64-v3'], '_v4': ['-march=x86-64-v4']}


def kernel(suffix: str, options: list[str]) -> Extension:
    """Return the CPU scans for one instruction set.

    A plain C interface that ctypes loads, no Python.h.
    """
    folder = f'{NAME}/models/kernels'
    return Extension(
        f'{folder}/_cpu{suffix}'.replace('/', '.'),
        sources=sorted(glob(f'{folder}/native/*.cpp')),
        depends=[f'{folder}/native/vectors.h'],
        language='c++',
        extra_compile_args=['-O3', '-fopenmp', '-fno-math-errno', '-fno-trapping-math',
                            '-ffp-contract=fast', '-std=c++17', '-Wno-psabi', *options],
        extra_link_args=['-fopenmp'],
        optional=True,  # without a compiler the portable scan does the work
    )


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Return data_files entries for the files of folder and of the folders below it."""
    kinds = '.py', '.xml', '.yaml', '.json', '.rviz', '.service'
    files = sorted(path for path in Path(folder).rglob('*') if path.suffix in kinds)
    return [(f'share/{NAME}/{path.parent}', [str(path)]) for path in files]


setup(
    name=NAME,
    version='0.1.0',
    description='Time-synchronized thermal + RGB fusion for ROS 2 with DIFF-MF',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    author='The diffmf_ros authors',
    author_email='diffmf_ros@users.noreply.github.com',
    maintainer='The diffmf_ros authors',
    maintainer_email='diffmf_ros@users.noreply.github.com',
    license='Apache-2.0',
    keywords=['ROS', 'thermal', 'infrared', 'image fusion', 'state-space model'],
    classifiers=[
        'Intended Audience :: Developers',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['py.typed', 'weights/*.safetensors', 'weights/*.md',
                         'inference/*.safetensors', 'tools/view/*.html']},
    ext_modules=[kernel(*item) for item in INSTRUCTIONS.items()],
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *shared('launch'),
        *shared('config'),
        *shared('examples'),
        # pip puts console scripts into bin/, where ros2 launch does not look; colcon into
        # lib/<package>.
        (f'lib/{NAME}', sorted(glob('resource/lib/*'))),
    ],
    install_requires=['numpy', 'opencv-python-headless', 'PyYAML', 'safetensors', 'rosbags',
                      'typer', 'rich'],
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        'console_scripts': [
            f'diffmf = {NAME}.cli.__main__:main',
            *(f'{name} = {NAME}.executables:{name}'
              for name in ('fusion_node', 'bag_player', 'recorder', 'viewer')),
        ],
    },
)
