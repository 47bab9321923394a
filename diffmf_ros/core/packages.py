# SPDX-License-Identifier: Apache-2.0
"""Which packages of the Python index bring a library that is missing."""

PACKAGES = {
    'torch': 'torch einops safetensors',
    'view': 'matplotlib',
    'onnx': 'onnx onnxscript onnxruntime',
    'ray': 'ray',
    'rerun': 'rerun-sdk',
    'ros': '"ros-rclpy[fastrtps]==9.1.2" ros-sensor-msgs==5.5.1 ros-diagnostic-msgs==5.5.1 '
           'ros-std-srvs==5.5.1',
}
# Library -> extra of this package that brings it.
_EXTRAS = {
    'torch': 'torch', 'einops': 'torch', 'safetensors': 'torch', 'matplotlib': 'view',
    'onnx': 'onnx', 'onnxscript': 'onnx', 'onnxruntime': 'onnx', 'ray': 'ray', 'rerun': 'rerun',
    'rclpy': 'ros', 'sensor_msgs': 'ros', 'diagnostic_msgs': 'ros', 'std_srvs': 'ros',
}


def missing(error: ModuleNotFoundError) -> str:
    """Return which library is not installed and how to get it; '' for one of no extra."""
    library = (error.name or '').partition('.')[0]
    if library not in _EXTRAS:
        return ''
    return (f'{library} is not installed, which this command needs: python -m '
            f'{pip_install(_EXTRAS[library])} (`diffmf doctor` says more)')


def broken(error: Exception) -> str:
    """Return which installed library failed while it was imported, and how.

    Args:
        error: what an import has raised.

    Returns:
        A sentence; '' where no frame is of a library, so that the fault is one of this package.
    """
    ours, place = __name__.partition('.')[0], error.__traceback__
    while place is not None:
        library = str(place.tb_frame.f_globals.get('__name__')).partition('.')[0]
        if library != ours and not library.startswith(('importlib', '_frozen_importlib')):
            return (f'{library} cannot be imported: {type(error).__name__}: {error} (`diffmf '
                    'doctor` says more)')
        place = place.tb_next
    return ''


def pip_install(extra: str) -> str:
    """Return the command that installs what an extra of this package stands for.

    This package itself is in no index, so that its extras cannot be named there.

    Args:
        extra: its name in setup.py, such as torch.

    Returns:
        A line for a shell.
    """
    return f'pip install {PACKAGES[extra]}'
