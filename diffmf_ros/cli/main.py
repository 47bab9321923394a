# SPDX-License-Identifier: Apache-2.0
"""Registers the sub-commands and turns whatever a user can cause into one message and an exit
code.

Exit codes: 0 done; 1 some inputs failed, or the answer is no (doctor, align); 2 wrong use, or an
input or output that cannot be used; 128 + n ended by signal n.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..core.frames import DiffmfError
from ..core.packages import missing
from .options import SCREEN
from .progress import signs_of_life

COMMANDS = ('demo', 'sample_bag', 'sample_pairs', 'make_bag', 'replay', 'fuse', 'train', 'eval',
            'model_card', 'bench', 'doctor', 'export', 'convert_weights', 'align', 'models',
            'view')
COMPLETION = '_DIFFMF_COMPLETE'  # the variable with which a shell asks how a line can go on
DONE, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT


class Group(TyperGroup):
    """The command `diffmf`, whose help shows a flag as its name alone, not as one of `<bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _plain_flags(super().get_params(ctx))


class Command(TyperCommand):
    """A command whose files have names: `-` is the screen, and --json alone writes there.

    Its help shows a flag as its name alone.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments and options."""
        return _plain_flags(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a command line. Raises BadParameter for `-` in place of a file."""
        rest = super().parse_args(ctx, args)
        parameters: list[Any] = [] if ctx.resilient_parsing else self.params
        for parameter in parameters:
            given = ctx.params.get(parameter.name)
            values = given if isinstance(given, (list, tuple)) else (given,)
            if SCREEN in values and parameter.name != 'json':
                raise typer.BadParameter(
                    'expected the name of a file or folder, got -, which --json alone takes, for '
                    'the screen; a file that is called - needs its full path',
                    ctx=ctx, param=parameter)
        return rest


def _plain_flags(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, 'is_flag', False):
            parameter.metavar = ''
    return parameters


@lru_cache(maxsize=1)
def application() -> typer.Typer:
    """Return the command-line application.

    Each module of COMMANDS has a function of its own name.
    """
    app = typer.Typer(cls=Group, no_args_is_help=True, pretty_exceptions_enable=False,
                      context_settings={'help_option_names': ['-h', '--help']})
    app.callback()(_diffmf)
    for name in COMMANDS:
        command = getattr(import_module(f'.{name}', __package__), name)
        app.command(name.replace('_', '-'), cls=Command)(command)
    return app


@lru_cache(maxsize=1)
def _command() -> Callable:
    """Return what parses and runs; to make it of the application takes longer than most errors."""
    return typer.main.get_command(application())


def run(arguments: Sequence[str]) -> int:
    """Run one command as a user calls it; return its exit code.

    Errors that are bugs are raised.
    """
    try:
        _command()(args=list(arguments), prog_name='diffmf')
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _say('interrupted')
        return end.code if isinstance(end.code, int) else DONE
    except DiffmfError as error:
        return _say(str(error))
    except ModuleNotFoundError as error:
        if not (text := missing(error)):
            raise
        return _say(text)
    except MemoryError:
        return _say('there is not enough memory for this; try smaller images or a smaller preset')
    # a disk that gets full, a folder that vanishes: nothing to debug here
    except OSError as error:
        place = f'{error.filename}: ' if error.filename else ''
        return _say(f'{place}{error.strerror or error}')
    return DONE


def main() -> None:
    """Entry point of `diffmf`."""
    for stream in (sys.stdout, sys.stderr):
        # file names that are not UTF-8 are printed as they are
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors='surrogateescape')
    # Completion prints what a shell reads, and an option alone is answered at once.
    named = sys.argv[1:2] and not sys.argv[1].startswith('-') and COMPLETION not in os.environ
    with signs_of_life(sys.argv[1]) if named else nullcontext():
        code = run(sys.argv[1:])
    sys.exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f'diffmf_ros {__version__}')
        raise typer.Exit


def _diffmf(
    version: Annotated[bool,
                       typer.Option('--version', help='print the version and exit', is_eager=True,
                                          callback=_show_version)] = False,
) -> None:
    """Thermal + RGB fusion with DIFF-MF, S4Fusion and RefineFuse."""


def _say(message: str) -> int:
    Console(stderr=True).print(f'[red]error:[/] {escape(message)}', highlight=False,
                               soft_wrap=True)
    return WRONG_USE


if __name__ == '__main__':
    main()
