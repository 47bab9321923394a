# SPDX-License-Identifier: Apache-2.0
"""Registers the sub-commands and turns errors a user can act on into a message and exit code 2."""

import sys
from importlib import import_module

import typer
from rich.console import Console
from rich.markup import escape

from ..core.frames import DiffmfError

COMMANDS = ('demo', 'sample_bag', 'sample_pairs', 'make_bag', 'replay', 'fuse', 'train', 'eval', 'model_card', 'bench',
            'doctor', 'export', 'convert_weights', 'align', 'models')


def application() -> typer.Typer:
    """Return the command-line application; each module of COMMANDS has a function of its own name."""
    app = typer.Typer(help='Thermal + RGB fusion with DIFF-MF, S4Fusion and RefineFuse.', no_args_is_help=True,
                      pretty_exceptions_enable=False, add_completion=False)
    for name in COMMANDS:
        command = getattr(import_module(f'.{name}', __package__), name)
        app.command(name.replace('_', '-'))(command)
    return app


def main() -> None:
    """Entry point of `diffmf`."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors='surrogateescape')  # file names that are not UTF-8 are printed as they are
    try:
        application()()
    except DiffmfError as error:
        Console(stderr=True).print(f'[red]error:[/] {escape(str(error))}', highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == '__main__':
    main()
