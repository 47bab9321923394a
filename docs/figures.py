# SPDX-License-Identifier: Apache-2.0
"""Draws docs/diffmf.svg, s4fusion.svg and refinefuse.svg, the networks at preset base.

    python docs/figures.py
    diffmf sample-pairs PAIRS && python docs/figures.py PAIRS   # docs/drives.jpg too, by nano

A figure is boxes at given places and arrows between their names. The facts are those of
diffmf_ros/models/.
"""

import json
import sys
from html import escape
from pathlib import Path

import cv2

import diffmf_ros
from diffmf_ros.io.media import Row, contact_sheet

WIDTH = 1070
FONT = "font-family='Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif'"
INK, GRAY = '#24292f', '#6e7781'
# fill and stroke of a box by what it works on
PALETTE = {'infrared': ('#fde8d7', '#c4560f'), 'visible': ('#dcebfb', '#1f6bb8'),
           'both': ('#ebe3f8', '#7347b5'),
           'decoder': ('#dcf2e0', '#2c8246'), 'image': ('#f3f4f6', GRAY)}
LINE, SMALL = 15, 11.5
SCALES = 'n at 1/k: n channels at 1/k of the height and width'
DASHED = " stroke-dasharray='3.5 5.5'"
SEES = 'value, and value', '− 64×64 mean'  # what the first layer takes of an image


class Figure:
    """Boxes and arrows; what is drawn first lies below."""

    def __init__(self, title: str, height: int, *notes: str):
        self._height, self._places, self._lines, self._shapes = height, {}, [], []
        self.text(24, 36, title, size=17, bold=True, anchor='start')
        self.text(24, 57, ' · '.join((SCALES, *notes)), anchor='start', color=GRAY)
        for x, kind in zip((752, 834, 911, 973), PALETTE):
            self._rectangle(x, 22, 18, 16, kind)
            self.text(x + 24, 34.5, kind, anchor='start')

    def box(self, name, kind, x, y, *lines, w=112, h=44, dashed=False, both=False):
        """A box around (x, y); the first line is its title. both: there is one for either
        modality."""
        self._places[name] = (x, y, w / 2, h / 2, kind)
        if both:
            self._rectangle(x - w / 2 + 5, y - h / 2 + 5, w, h, 'visible')
        self._rectangle(x - w / 2, y - h / 2, w, h, kind, dashed=dashed)
        top = y - LINE * (len(lines) - 1) / 2 + 4
        for number, words in enumerate(lines):
            title = not number or words.startswith('*')  # a title may take two lines
            self.text(x, top + LINE * number, words.lstrip('*'), size=13 if title else SMALL,
                      bold=title, color=GRAY if dashed else INK)

    def join(self, name, kind, x, y, sign, *, dashed=False):
        """A circle with a sign; with '' a point where a line parts, with None nothing to be seen.
        """
        self._places[name] = (x, y, *((11, 11) if sign else (0, 0)), kind)
        if sign is None:
            return
        radius, (fill, stroke) = 11 if sign else 3.5, PALETTE[kind]
        self._shapes.append(f"<circle cx='{x}' cy='{y}' r='{radius}' "
                            f"fill='{fill if sign else stroke}' "
                            f"stroke='{stroke}' stroke-width='1.5'{DASHED * dashed}/>")
        self.text(x, y + 5, sign, size=15, bold=True)

    def frame(self, x, y, w, h, caption):
        """A pale field behind a part that is repeated."""
        self._lines.append(f"<rect x='{x}' y='{y}' width='{w}' height='{h}' rx='12' "
                           f"fill='#f6f8fa' stroke='#d0d7de'/>")
        self.text(x + w / 2, y + 19, caption, size=13, bold=True)

    def text(self, x, y, words, *, size=SMALL, bold=False, anchor='middle', color=INK):
        """One line of text."""
        self._shapes.append(f"<text x='{x:g}' y='{y:g}' font-size='{size}' "
                            f"font-weight='{600 if bold else 400}' "
                            f"fill='{color}' text-anchor='{anchor}'>{escape(words)}</text>")

    def arrow(self, *names, bend='', kind='', dashed=False, both=False):
        """An arrow from each name to the next. bend: see _route; both: there is one for either
        modality."""
        for start, end in zip(names, names[1:]):
            places = self._places[start], self._places[end]
            points = _route(*places, bend)
            sideways = points[0][1] == points[1][1]
            kinds = ((-5, 'infrared'), (5, 'visible')) if both else ((0, kind or places[0][4]),)
            for shift, of in kinds:
                # Where they fork both turn on a diagonal, so that neither ends in the other.
                moved = [(x + shift * (not sideways or not place[2]),
                          y + shift * (sideways or not place[2]))
                         for (x, y), place in zip(points, places)] if both else points
                self._line(moved, PALETTE[of][1], places[1][2] > 0, dashed)

    def svg(self) -> str:
        """The whole figure on a white card, so that it can be read on any page."""
        return '\n'.join([
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{self._height}' "
            f"viewBox='0 0 {WIDTH} {self._height}' {FONT} stroke-linecap='square'>",
            f"<rect width='{WIDTH}' height='{self._height}' rx='14' fill='white'/>",
            *self._lines, *self._shapes, '</svg>', ''])

    def _rectangle(self, x, y, w, h, kind, *, dashed=False):
        fill, stroke = PALETTE[kind]
        self._shapes.append(
            f"<rect x='{x:g}' y='{y:g}' width='{w}' height='{h}' rx='6' "
            f"fill='{'white' if dashed else fill}' "
            f"stroke='{stroke}' stroke-width='1.5'{DASHED * dashed}/>")

    def _line(self, points, color, tip, dashed):
        """A line on a white one, so that lines that cross are told apart, and its tip."""
        (x, y), (dx, dy), (start_dx, start_dy) = points[-1], _direction(*points[-2:]), _direction(
            *points[:2])
        drawn = [*points[:-1], (x - 5 * dx, y - 5 * dy)] if tip else points
        # spares the line it leaves
        clear = [(drawn[0][0] + 4 * start_dx, drawn[0][1] + 4 * start_dy), *drawn[1:]]
        for line, stroke in ((clear, "stroke='white' stroke-width='5'"),
                             (drawn, f"stroke='{color}' stroke-width='1.7'{DASHED * dashed}")):
            path = 'M' + ' L'.join(f'{x:g} {y:g}' for x, y in line)
            self._lines.append(f"<path d='{path}' fill='none' {stroke}/>")
        if tip:
            where = ' '.join(f'{x - back * dx + side * dy:g},{y - back * dy + side * dx:g}'
                             for back, side in ((0, 0), (8, 4), (8, -4)))
            self._lines.append(f"<polygon points='{where}' fill='{color}'/>")


def _direction(start, end):
    return tuple((b > a) - (b < a) for a, b in zip(start, end))


def _route(start, end, bend):
    """Points from the rim of one place to that of another: straight where they overlap."""
    (ax, ay, aw, ah, _), (bx, by, bw, bh, _) = start, end
    right, down = (1 if bx > ax else -1), (1 if by > ay else -1)
    if bend == 'hv':
        return [(ax + aw * right, ay), (bx, ay), (bx, by - bh * down)]
    if bend == 'vh':  # enters above or below the middle, beside what comes from the other side
        return [(ax, ay + ah * down), (ax, by - 11 * down), (bx - bw * right, by - 11 * down)]
    if bend == 'left':  # round the left side and back
        return [(ax - aw, ay), (ax - aw - 12, ay), (ax - aw - 12, by), (bx - bw, by)]
    if abs(ay - by) <= max(ah, bh):
        y = ay if ah <= bh else by
        return [(ax + aw * right, y), (bx - bw * right, y)]
    x = ax if aw <= bw else bx
    return [(x, ay + ah * down), (x, by - bh * down)]


def _ends(figure, infrared_y, visible_y, floor, x, y, *, sees=(), dashed=False):
    """Draw both images, their split at the lower left, and the mix at the right; sees: as SEES."""
    style = {'dashed': dashed}
    for name, input_y, what in (('infrared', infrared_y, '1 channel'),
                                ('visible', visible_y, 'luminance')):
        figure.box(name, name, 66, input_y, name, *(sees or [what]), w=96, h=54 if sees else 38)
    figure.box('split', 'image', 128, floor, 'base and detail', '8×8 mean, and the rest', w=176,
               h=40, **style)
    kind = 'image' if dashed else 'decoder'
    figure.box('mix', kind, x, y, 'mix', 'as the four', 'maps say', w=80, h=58, **style)
    figure.box('fused', 'image', x + 98, y, 'fused', 'luminance', w=84, h=38)
    figure.arrow('infrared', 'split', bend='left', **style)
    figure.arrow('visible', 'split', **style)
    figure.arrow('split', 'mix', bend='hv', **style)
    figure.arrow('mix', 'fused', kind='decoder')


def diffmf() -> Figure:
    """DIFF-MF: one scale up to the channel exchange, three from there."""
    figure = Figure('DIFF-MF, preset base', 476, 'C: concatenation', '×2: bilinear', 'σ: sigmoid')
    rows, floor = (136, 250, 364), 446
    _ends(figure, rows[0], rows[2], floor, 914, rows[1], sees=SEES)
    figure.frame(230, 80, 258, 330, '2 rounds of difference guidance')
    for modality, y, gain in (('infrared', rows[0], '1 + σ(E)'), ('visible', rows[2], '2 − σ(E)')):
        figure.box(f'stem {modality}', modality, 172, y, 'stem', '2 conv, stride 2', '64 at 1/2',
                   w=96, h=58)
        figure.join(f'tap {modality}', modality, 241, y, '')
        figure.box(f'own {modality}', modality, 306, y, 'own', '2 VSS blocks', w=100)
        figure.join(f'gain {modality}', modality, 430, y, '×')
        figure.text(438, y + (34 if y < rows[1] else -26), gain, anchor='start')
    figure.box('shared', 'both', 306, rows[1], 'shared, both', 'conv, 2 VSS', 'difference i − v',
               w=108, h=58)
    figure.box('guidance', 'both', 430, rows[1], 'guidance E', 'depth-wise 3×3', 'and 1×1', w=100,
               h=58)
    figure.box('exchange', 'both', 553, rows[1], 'channel', '*exchange', 'SSD scan of i',
               'with B, C of v', 'and the reverse;', 'joint weights', 'of the channels', w=104,
               h=286)
    for number, (y, scale) in enumerate(zip(rows, ('1/2', '1/4', '1/8'))):
        figure.box(f'spatial {number}', 'both', 757, y, 'spatial exchange', '3 VSS scans',
                   f'64 at {scale}', w=118, h=58)
        figure.join(f'part {number}', 'both', 650, y, None)
        if number:
            figure.box(f'down {number}', 'infrared', 648, y - 58, 'down', '3×3, stride 2', w=78,
                       h=36, both=True)
    for number in (0, 1):
        figure.join(f'join {number}', 'decoder', 838, rows[number], 'C')
        figure.text(845, rows[number] + 32, '×2', anchor='start')
    figure.box('decoder', 'decoder', 914, rows[0], 'decoder', '4 conv, shuffle', '192 → 4 maps',
               w=92, h=58)
    figure.box('again', 'image', 1016, rows[0], 'images', 'both, again', w=80, h=38)
    for modality in ('infrared', 'visible'):
        figure.arrow(modality, f'stem {modality}', f'own {modality}', f'gain {modality}',
                     'exchange')
        figure.arrow(f'tap {modality}', 'shared', bend='vh')
        figure.arrow('shared', 'guidance', f'gain {modality}')
    figure.arrow('exchange', 'part 0', 'spatial 0', both=True)
    for number in (1, 2):
        figure.arrow(f'part {number - 1}', f'down {number}', f'part {number}', f'spatial {number}',
                     both=True)
    figure.arrow('spatial 2', 'join 1', bend='hv')
    figure.arrow('spatial 1', 'join 1', 'join 0', 'decoder', 'mix')
    figure.arrow('spatial 0', 'join 0')
    figure.arrow('again', 'decoder')
    return figure


def s4fusion() -> Figure:
    """S4Fusion: each scale is fused as it enters the encoder stage of that scale."""
    figure, rows, floor = Figure('S4Fusion, preset base', 624,
                                 'dashed: not computed'), (106, 264, 422), 592
    scales = ((1, 48, '1/3'), (2, 96, '1/6'), (1, 192, '1/12'))
    _ends(figure, rows[0], rows[0] + 48, floor, 874, rows[1] + 24, dashed=True)
    for number, (y, (depth, width, scale)) in enumerate(zip(rows, scales)):
        what, blocks = f'{width} at {scale}', f'{depth} VSS block{"s" * (depth > 1)}'
        entry = 'merge 2×2' if number else 'conv 4×4, stride 3'
        for modality, x, lower in (('infrared', 214, 0), ('visible', 358, 48)):
            figure.box(f'entry {number} {modality}', modality, x, y + lower, entry, what, w=126,
                       h=34)
            figure.box(f'stage {number} {modality}', modality, x, y + lower + 76, blocks, w=126,
                       h=30)
        lines = ('CMSA × 3', what, 'loaded, never', 'computed') if not number else (
            'CMSA × 3', 'one scan through', 'both modalities', what)
        figure.box(f'fusion {number}', 'both', 520, y + 24, *lines, w=126, h=86, dashed=not number)
    figure.box('up 2', 'decoder', 690, rows[2] + 100, 'sum, 1 VSS block', '192 at 1/12', w=126,
               h=76)
    for number in (2, 1):
        depth, width, scale = scales[number - 1]
        figure.join(f'join {number}', 'decoder', 690, rows[number] + 24, '+')
        figure.box(f'up {number - 1}', 'decoder', 690, rows[number] - 54, f'expand, {depth} VSS',
                   f'{width} at {scale}', w=126)
    figure.box('patches', 'decoder', 690, rows[0] + 24, 'overlapping patches',
               '4×4, 3 apart, summed', '12 at 1/1', w=146, h=58)
    figure.box('paint', 'decoder', 874, rows[0] + 24, 'conv 1×1', '12 → 1', 'light: 4 maps', w=104,
               h=58)
    for below, words in ((24, 'preset light only;'), (40, 'base paints the image')):
        figure.text(862, rows[2] + below, words, anchor='end', color=GRAY)
    for modality in ('infrared', 'visible'):
        steps = [f'{part} {number} {modality}' for number in range(3)
                 for part in ('entry', 'stage')]
        figure.arrow(modality, *steps, 'up 2')
        for number in range(3):
            figure.arrow(f'entry {number} {modality}', f'fusion {number}', dashed=not number)
    for number in (2, 1):
        figure.arrow(f'fusion {number}', f'join {number}')
        figure.arrow(f'up {number}', f'join {number}', f'up {number - 1}')
    figure.arrow('up 0', 'patches', 'paint', 'mix')
    return figure


def refinefuse() -> Figure:
    """RefineFuse: gates at the two fine scales, attention at the two coarse ones, a decoder
    upwards."""
    figure = Figure('RefineFuse, preset base', 566, 'C: concatenation', '×2: bilinear')
    rows, floor = (131, 243, 355, 467), 534
    _ends(figure, rows[0] - 29, rows[0] + 29, floor, 874, rows[1], sees=SEES)
    for number, (y, (width, scale)) in enumerate(
            zip(rows, ((64, '1/1'), (64, '1/2'), (128, '1/4'), (128, '1/8')))):
        what, title = f'{width} at {scale}', '2 conv 3×3' + ', stride 2' * (number > 0)
        for modality, x, lower in (('infrared', 212, -25), ('visible', 364, 25)):
            figure.box(f'{modality} {number}', modality, x, y + lower, title, what, w=138, h=40)
        lines = ('PSIM, deep', 'cross-attention both', 'ways, keys at 1/16') if number > 1 else (
            'SFIM, shallow', 'exchange by channel', 'and spatial gates')
        figure.box(f'fusion {number}', 'both', 530, y, *lines, what, w=140, h=80)
    figure.box('up 3', 'decoder', 700, rows[3], 'conv 3×3', '128 at 1/8', w=126, h=40)
    figure.join('join 2', 'decoder', 700, rows[2], 'C')
    figure.box('up 2', 'decoder', 700, rows[2] - 52, '2 conv 3×3', '256 → 128 → 64', w=126, h=38)
    figure.box('join 1', 'both', 700, rows[1], 'FIM: scale, shift', 'shallow by deep', w=126, h=38)
    figure.box('up 1', 'decoder', 700, rows[1] - 52, '2 conv 3×3', '64 at 1/2', w=126, h=38)
    figure.join('join 0', 'decoder', 700, rows[0], 'C')
    figure.box('up 0', 'decoder', 874, rows[0], '3 conv 3×3', '128 → 64 → 32 → 4 maps', w=150)
    for y in (rows[2] + 44, rows[1] + 30, rows[0] + 34):
        figure.text(708, y, '×2', anchor='start')
    for modality in ('infrared', 'visible'):
        figure.arrow(modality, *(f'{modality} {number}' for number in range(4)))
        for number in range(4):
            figure.arrow(f'{modality} {number}', f'fusion {number}')
    for number in range(3):
        figure.arrow(f'fusion {number}', f'join {number}')
    figure.arrow('fusion 3', 'up 3', 'join 2', 'up 2', 'join 1', 'up 1', 'join 0', 'up 0', 'mix')
    return figure


def drives(pairs: Path) -> list[Row]:
    """Return a row of each rendered scene below pairs: the pair that shows most people, fused."""
    people = {name: len(found['people'])
              for name, found in json.loads((pairs / 'boxes.json').read_text()).items()}
    rows = []
    with diffmf_ros.Fuser() as fuser:
        for scene in sorted(path.parent for path in pairs.glob('*/vi')):
            name = max((path.stem for path in scene.glob('vi/*.png')), key=people.__getitem__)
            rgb = cv2.cvtColor(cv2.imread(str(scene / 'vi' / f'{name}.png')), cv2.COLOR_BGR2RGB)
            thermal = cv2.imread(str(scene / 'ir' / f'{name}.png'), cv2.IMREAD_UNCHANGED)
            rows.append(Row((rgb, thermal, fuser(rgb, thermal)), (
                f'{scene.name}, {people[name]} people: RGB', 'thermal', 'fused')))
    return rows


if __name__ == '__main__':
    if sys.argv[1:]:
        cv2.imwrite(str(Path(__file__).with_name('drives.jpg')),
                    contact_sheet(drives(Path(sys.argv[1])), width=320),
                    [cv2.IMWRITE_JPEG_QUALITY, 85])
    for network in (diffmf, s4fusion, refinefuse):
        (Path(__file__).parent / f'{network.__name__}.svg').write_text(
            network().svg(), encoding='utf-8')
