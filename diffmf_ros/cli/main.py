# SPDX-License-Identifier: Apache-2.0
"""Registers the sub-commands and turns whatever a user can cause into one message and an exit
code.

Exit codes: 0 done; 1 some inputs failed, or the answer is no (doctor, align); 2 wrong use, or an
input or output that cannot be used; 128 + n ended by signal n.
"""

import os
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import lru_cache
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..core.frames import DiffmfError
from ..core.packages import missing
from ..core.settings import DEFAULTS, iter_specs
from .options import SCREEN
from .progress import signs_of_life

COMMANDS = ('demo', 'sample_bag', 'sample_pairs', 'make_bag', 'replay', 'fuse', 'train', 'eval',
            'model_card', 'bench', 'doctor', 'export', 'convert_weights', 'align', 'models',
            'view')
COMPLETION = '_DIFFMF_COMPLETE'  # the variable with which a shell asks how a line can go on
_ADDRESS = re.compile(r'[a-z][a-z0-9+.-]+:/', re.IGNORECASE)  # as a path, which has no // in it
DONE, SOME_FAILED, WRONG_USE = 0, 1, 2
ENDED = 128 + signal.SIGINT, 128 + signal.SIGTERM
PIPE_CLOSED = 128 + signal.SIGPIPE  # what reads the output has ended, as `head` does


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
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        words = list(args)
        self._refuse_dashed_names(ctx, words)
        if words:  # else the usage is shown, or what is missing is named
            self._require_last(ctx, words)
        try:
            rest = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            self._explain_number(ctx, words, error)
            raise
        self._refuse_repeated(ctx, words)
        parameters: list[Any] = self.params
        for parameter in parameters:
            given = ctx.params.get(parameter.name)
            for value in given if isinstance(given, (list, tuple)) else (given,):
                if isinstance(value, Path) and (why := _unfit(value, parameter.name)):
                    raise typer.BadParameter(why, ctx=ctx, param=parameter)
        return rest

    def _refuse_dashed_names(self, ctx: Any, words: list[str]) -> None:
        """Raise BadParameter for a file whose name would be read as an option."""
        known = {name for one in self.get_params(ctx) for name in (*one.opts, *one.secondary_opts)}
        before = words[:words.index('--')] if '--' in words else words
        for word in before:
            if (word.startswith('-') and word != '-' and word.partition('=')[0] not in known
                    and os.path.lexists(word)):
                raise typer.BadParameter(f'{word} begins as an option does; for the file of this '
                                         f'name write ./{word}', ctx=ctx)

    def _require_last(self, ctx: Any, words: list[str]) -> None:
        """Raise BadParameter for OUT where BAG... OUT are expected and a single word came."""
        places = [one for one in self.get_params(ctx) if one.param_type_name == 'argument']
        if len(places) < 2 or places[0].nargs != -1:
            return
        given = self.make_parser(ctx).parse_args(list(words))[0]
        word = given.get(places[-1].name)
        if isinstance(word, str) and not given.get(places[0].name):
            raise typer.BadParameter(f'{places[-1].name.upper()} is missing: expected '
                                     f'{places[0].metavar} {places[-1].name.upper()}, got {word} '
                                     'alone', ctx=ctx)

    def _explain_number(self, ctx: Any, words: list[str], error: Any) -> None:
        """Name the value, and the range of a setting, in the error of what should be a number."""
        name = getattr(error.param, 'name', '')
        word = self.make_parser(ctx).parse_args(list(words))[0].get(name)
        item = next((one for one in iter_specs(DEFAULTS) if one.low is not None
                     and one.name.rpartition('.')[2] == name), None)
        if item and isinstance(word, str):
            kind = 'a whole number' if type(item.value) is int else 'a number'
            error.message = f'expected {kind} from {item.low} to {item.high}, got {word!r}'
        elif isinstance(word, str) and repr(word) not in error.message:
            error.message = f'{error.message.rstrip(".")}, got {word!r}'

    def _refuse_repeated(self, ctx: Any, words: list[str]) -> None:
        """Raise BadParameter for an option that is given twice and takes one value."""
        order: list[Any] = self.make_parser(ctx).parse_args(list(words))[2]
        for one in order:
            plain = getattr(one, 'is_flag', False) and not one.secondary_opts
            if (one.param_type_name == 'option' and not one.multiple and not plain
                    and order.count(one) > 1):
                raise typer.BadParameter(f'expected once, got {order.count(one)} times: leave the '
                                         'others out', ctx=ctx, param=one)


def _unfit(path: Path, name: str) -> str:
    """Return why the path given for a parameter is refused, or '' where it is not."""
    if path == SCREEN and name != 'json':
        return ('expected the name of a file or folder, got -, which --json alone takes, for the '
                'screen; a file that is called - needs its full path')
    if _ADDRESS.match(str(path)) and not path.exists():
        return (f'expected the name of a file or folder, got the address '
                f'{str(path).replace(":/", "://", 1)}: download it first, and give the file')
    return ''


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
        if end.code in ENDED:
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
    output = _kept_output()
    # Completion prints what a shell reads, and an option alone is answered at once.
    named = sys.argv[1:2] and not sys.argv[1].startswith('-') and COMPLETION not in os.environ
    with signs_of_life(sys.argv[1]) if named else nullcontext():
        code = run(sys.argv[1:])
    # click and rich end with 1 then, which would be an answer of the command.
    sys.exit(PIPE_CLOSED if code == SOME_FAILED and _is_unread(output) else code)


def _kept_output() -> int | None:
    """Return a descriptor of the standard output of its own: rich puts /dev/null in its place."""
    with suppress(OSError, ValueError, AttributeError):
        return os.dup(sys.stdout.fileno())
    return None


def _is_unread(output: int | None) -> bool:
    """Return whether an output is a pipe that no process reads any more."""
    if output is None:
        return False
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    return any(events & select.POLLERR for _, events in poll.poll(0))


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
