# SPDX-License-Identifier: Apache-2.0
"""What the pages say can be done: links lead somewhere, printed commands are understood."""

import re
import runpy
import shlex
import sys
import types
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from diffmf_ros.cli.main import application

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('diffmf_ros/weights/*.md')])
FENCE = re.compile(r'^ *```[^\n]*\n(.*?)^ *```', re.MULTILINE | re.DOTALL)
INLINE = re.compile(r'`([^`\n]+)`')
ERRORS = sys.modules[typer.BadParameter.__module__]  # click's, or typer's copy of it
PRESETS = 'nano', 'light', 'light-s4', 'base'
LINK = re.compile(r'\]\(([^()\s]+)\)')
PROSE = [page for page in PAGES if page.name != 'CHANGELOG.md' and page.parent.name != 'weights']
TWO_SENTENCES = re.compile(r'(?<!^\d)(?<!^\d\d)[.!?][)"\'*_]* +[\[("*_]*[A-Z0-9`]')
ENDS = re.compile(r'[.!?][)"\'*_`]*$')
NO_PROSE = re.compile(r' *([|#<]|[*+-] |\d+\. |$)')


def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r'^#+ (.+)$', FENCE.sub('', text_of(page)), re.MULTILINE)
    plain = (re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading) for heading in headings)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in plain}


def quicker(words: list[str], more: list[str]) -> list[str]:
    """Return words with the options and values of more in place of those of the same name."""
    kept = list(words)
    for option in more[::2]:
        while option in kept:
            del kept[kept.index(option):kept.index(option) + 2]
    return kept + more


def printed_lines(page: Path) -> list[str]:
    """Lines of the blocks of a page that are for a shell, continuation lines joined.

    Blocks of anything else name their language.
    """
    blocks = ''.join(block[1] for block in FENCE.finditer(text_of(page))
                     if block[0].lstrip().startswith('```\n')).replace('\\\n', ' ')
    return [line.strip().removeprefix('$ ') for line in blocks.splitlines()]


def commands(program: str, lines_of=printed_lines) -> list[tuple[str, str]]:
    """Rows of (page, command line) of a program; the changelog may name what there was once."""
    return [(name_of(page), line) for page in PAGES if page.name != 'CHANGELOG.md'
            for line in lines_of(page) if line.split(' ')[0] == program]


def mentions(page: Path) -> list[str]:
    """Code in the sentences of a page."""
    return INLINE.findall(FENCE.sub('', text_of(page)))


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_fences_name_known_languages(page):
    """A block with any other word, a space even, would be no shell, and nobody would run it."""
    opened = re.findall(r'^ *```(.*)$', text_of(page), re.MULTILINE)

    assert set(opened[::2]) <= {'', 'json', 'python', 'text', 'xml', 'yaml'}
    assert set(opened[1::2]) <= {''}


@pytest.mark.parametrize('page', PROSE, ids=name_of)
def test_one_sentence_a_line(page):
    """A line of prose holds one sentence, and a sentence one line."""
    text = LINK.sub('](link)', INLINE.sub('`code`', FENCE.sub('', text_of(page))))
    lines = text.splitlines()

    for line, following in zip(lines, [*lines[1:], ''], strict=True):
        if line.startswith(('|', '#', '<', '    ')):
            continue
        assert not TWO_SENTENCES.search(line.strip()), f'{name_of(page)}: two sentences: {line}'
        assert not line or NO_PROSE.match(following) or ENDS.search(line), (
            f'{name_of(page)}: the sentence goes on in the next line: {line}')


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_relative_links_resolve(page):
    for target in LINK.findall(FENCE.sub('', text_of(page))):
        if re.match(r'\w+:', target):
            continue
        path, _, anchor = target.partition('#')
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f'{name_of(page)} links to {target}, which does not exist'
        if anchor and goal.suffix == '.md':
            there = anchors(goal)
            assert anchor in there, f'{name_of(page)} links to {target}; there are {there}'


def understood(words: list[str]) -> None:
    """Let the command line of diffmf parse words, without running anything."""
    group = get_command(application())
    context = group.make_context('diffmf', words[:1])
    command = group.get_command(context, words[0])
    if command is None:
        raise typer.BadParameter(f'no command {words[0]}')
    if not {'-h', '--help'} & set(words):
        command.make_context(words[0], words[1:], parent=context)


def words_of(line: str) -> list[str]:
    """The arguments of a command line, 1 for the single capitals that a reader fills in."""
    words = shlex.split(line, comments=True)[1:]
    end = next((at for at, word in enumerate(words) if word in ('|', '&&', ';', '>')), None)
    return [re.sub('^[A-Z]$', '1', word) for word in words[:end]]


@pytest.mark.parametrize('page, line', commands('diffmf'))
def test_printed_commands_parse(page, line):
    words = words_of(line)

    assert words, f'{page}: {line}'
    understood(words)


@pytest.mark.parametrize('page, line', commands('diffmf', mentions))
def test_mentioned_commands_and_options_exist(page, line):
    words = words_of(line)
    if not words or words[0].startswith('-') or words[0] in ('COMMAND', *PRESETS):
        return  # `diffmf nano` names a network
    # A sentence may leave out the arguments and the value of the last option.
    try:
        understood(words)
    except (ERRORS.MissingParameter, ERRORS.BadOptionUsage):
        pass


def test_readme_fits_a_screen_or_two():
    text = text_of(ROOT / 'README.md')
    assert len(text.splitlines()) < 90 and len(text.split()) < 700


def table_under(text: str, *headings: str) -> dict[str, dict[str, str]]:
    """The first table behind headings that follow each other: {row: {column: cell}}."""
    for heading in headings:
        text = f'\n{text}'.partition(f'\n{heading}\n')[2]
    lines = re.search(r'^\|.*?(?=\n\n)', text, re.MULTILINE | re.DOTALL)[0].splitlines()
    columns, _, *rows = ([cell.strip(' *') for cell in line.strip('|').split('|')]
                         for line in lines)
    return {row[0]: dict(zip(columns, row, strict=True)) for row in rows}


def test_readme_shows_measured_quality():
    """The people that README promises are those of the page of quality."""
    quality = text_of(ROOT / 'docs' / 'quality.md')
    pairs = table_under(quality, '### The same pairs, each picture placed twelve ways')
    drives = {scene: table_under(quality, '### The same on rendered drives', f'#### {scene}')
              for scene in ('all', 'night', 'smoke')}
    clips = table_under(quality, '### Detections in the clips, every tenth frame')
    whole = table_under(quality, '### all (34 pairs)')
    claimed = [list(row.values()) for row in
               table_under(text_of(ROOT / 'README.md'), '# diffmf_ros').values()]

    assert len(claimed) == 5
    for row, method in zip(claimed, ('rgb', 'thermal', 'diffmf nano', 'classical', 'blend'),
                           strict=True):
        measured = [pairs[method]['AP40'], *(drives[of][method]['found'] for of in drives),
                    clips[method]['smoke_0117_1605'], whole[method]['detail']]
        assert [float(cell) for cell in row[1:]] == [round(float(cell), 2) for cell in measured]


def test_parameters_page_matches_settings():
    """Parameters page is made from the settings."""
    module = runpy.run_path(str(ROOT / 'docs' / 'parameters_page.py'))
    page = text_of(ROOT / 'docs' / 'parameters.md')
    assert module['with_tables'](page) == page, 'run: python docs/parameters_page.py'


def test_api_page_matches_docstrings():
    """API page is made from the docstrings."""
    module = runpy.run_path(str(ROOT / 'docs' / 'api_page.py'))
    assert module['page']() == text_of(ROOT / 'docs' / 'api.md'), 'run: python docs/api_page.py'


def test_page_shows_one_network(monkeypatch):
    """The network of the page is one."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    from diffmf_ros import models
    from diffmf_ros.models.blocks import cast_layers

    # Given the module that the page shows, under the name that it shows
    code = FENCE.search(text_of(ROOT / 'docs' / 'adding_a_network.md'))[1]
    module = types.ModuleType('diffmf_ros.models.tiny')
    module.__package__ = 'diffmf_ros.models'
    exec(compile(code, 'tiny.py', 'exec'), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(models.PRESETS, 'tiny', {'base': {}, 'light': {'width': 8}})

    # when it is built and fuses a pair in half precision
    torch.manual_seed(1)
    network = cast_layers(models.build('tiny', 'light'), torch.bfloat16)
    ir, vi_y = torch.rand(2, 1, 1, 32, 40)
    with torch.inference_mode():
        fused = network(ir, vi_y)

    # then it gives an image, near the visible one, as untrained maps start there.
    assert fused.shape == (1, 1, 32, 40) and fused.dtype == torch.float32
    assert 0 < (fused - vi_y).abs().mean() < 0.3


def test_the_site_has_every_page_once():
    pages = re.findall(r': (\w+\.md)$', text_of(ROOT / 'mkdocs.yml'), re.MULTILINE)

    assert sorted(pages) == sorted(path.name for path in ROOT.glob('docs/*.md'))


def test_repository_links_become_file_names():
    """Links into the repository become file names."""
    hooks = runpy.run_path(str(ROOT / 'docs' / 'site_hooks.py'))

    text = ('see [`config/fusion.yaml`](../config/fusion.yaml), '
            '[bars](../benchmarks/quality_bars.py#x) and [here](faq.md)')
    assert hooks['on_page_markdown'](text) == (
        'see `config/fusion.yaml`, bars (`benchmarks/quality_bars.py`) and [here](faq.md)')


def test_commands_page_is_complete():
    """Every command is on the page of commands."""
    listed = set(mentions(ROOT / 'docs' / 'commands.md'))

    missing = [name for name in get_command(application()).commands if name not in listed]
    assert not missing


def test_launch_files_are_documented():
    """Every launch file is on a page."""
    pages = text_of(ROOT / 'docs' / 'topics.md') + text_of(ROOT / 'docs' / 'downstream.md')

    files = [*ROOT.glob('launch/*.launch.py'), *ROOT.glob('examples/*.launch.py')]
    assert len(files) >= 4 and all(path.name in pages for path in files)
