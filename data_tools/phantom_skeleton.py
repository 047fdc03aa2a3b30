"""Bones and cartilage of the phantom patient: spine, ribs, breast bone, shoulders, pelvis, skull.

Not for: soft organs (`phantom_organs`). The frame and its units are those of `phantom_anatomy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import chain

import numpy as np

from data_tools.phantom_anatomy import CAVITY, VERTEBRAE, Organ, pair, spine_y, vertebra_z
from data_tools.phantom_shapes import Ball, Blend, Capsule, Point, Shape, mirrored, tube

THIN_BONE = (("cortical", 0.0), ("spongy", 1.8))
THICK_BONE = (("cortical", 0.0), ("spongy", 2.6))
VERTEBRA = (("cortical", 0.0), ("spongy", 1.6))

# Where a rib ends in front, an angle around the chest: -90 is the back, 0 the side, 90 the front.
_RIB_END_DEG = (62, 64, 65, 64, 62, 59, 55, 47, 38, 28, -8, -42)
# How far its front end hangs below its head, in mm.
_RIB_DROP = (24, 36, 46, 54, 60, 64, 68, 70, 70, 66, 44, 26)


@cache
def skeleton() -> tuple[Organ, ...]:
    """All bones in painting order, the spinal canal included."""
    rows = (_shoulders(), _spine(), _ribs(), _cartilages(), _breast_bone(), _pelvis(), _skull())
    return tuple(chain.from_iterable(rows))


def _spine() -> Iterator[Organ]:
    levels = VERTEBRAE + tuple(f"C{i}" for i in range(7, 0, -1))
    discs = tube(tuple((0, spine_y(z), z) for z in range(-170, 370, 45)), 16.0)
    yield Organ(None, discs, (("disc", 0.0),))
    for level in levels:
        name = None if level.startswith("C") else f"vertebrae_{level}"
        yield Organ(name, _vertebra(level), VERTEBRA)
    middle = [(0.0, spine_y(z) - _canal_depth(z), float(z)) for z in range(-185, 371, 15)]
    yield Organ(None, tube(tuple(middle), 8.5), (("fluid", 0.0),))
    cord = [point for point in middle if point[2] > -45]  # the cord ends at L1 to L2
    yield Organ("spinal_cord", tube(tuple(cord), 6.0), (("cord", 0.0),))


def _canal_depth(z: float) -> float:
    return float(np.interp(z, (-100, 0, 100, 280), (27, 25, 22, 20)))


def _vertebra(level: str) -> tuple[Shape, ...]:
    z = vertebra_z(level)
    y = spine_y(z)
    size = float(np.interp(z, (-160, -20, 100, 280), (1.12, 1.0, 0.9, 0.78)))
    half_height = {"L": 14.0, "T": 9.2, "C": 6.4}[level[0]]
    back = y - _canal_depth(z)
    reach = 36 * size
    spine_tip = (0.0, back - 30 * size, z - (4 if level.startswith("L") else 14))
    return (
        Ball((0, y, z), (24 * size, 17 * size, half_height), exponent=4),
        Ball((0, back - 1, z), (19 * size, 14 * size, half_height * 0.75), exponent=3),
        Capsule((0, back - 10 * size, z - 1), spine_tip, (5 * size, 4 * size)),
        Capsule((10 * size, back + 3, z), (reach, back - 6, z + 2), (5.2 * size, 4.4 * size)),
        Capsule((-10 * size, back + 3, z), (-reach, back - 6, z + 2), (5.2 * size, 4.4 * size)),
    )


def _on_chest(angle_deg: float, z: float, outside_mm: float = 6.5) -> Point:
    """The point at an angle around the right chest wall, `outside_mm` off the cavity."""
    half_width, half_depth, centre = CAVITY.section(z)
    angle = np.radians(angle_deg)
    power = 2 / CAVITY.exponent
    across = np.cos(angle) ** power * (half_width + outside_mm)
    ahead = np.sign(np.sin(angle)) * abs(np.sin(angle)) ** power * (half_depth + outside_mm)
    return float(across), float(centre + ahead), z


def _rib_points(number: int) -> tuple[Point, ...]:
    head = vertebra_z(f"T{number}") + 3
    start, end = -72.0, float(_RIB_END_DEG[number - 1])
    angles = np.linspace(start, end, max(5, int((end - start) / 12)))
    fall = _RIB_DROP[number - 1] * ((angles - start) / (end - start)) ** 1.1
    neck = (22.0, spine_y(head) - 14, head)
    arc = [_on_chest(a, head - f) for a, f in zip(angles, fall, strict=True)]
    return (neck, *arc)


def _ribs() -> Iterator[Organ]:
    for number in range(1, 13):
        rib = tube(_rib_points(number), 5.6, step_mm=16)
        yield Organ(f"rib_right_{number}", rib, THIN_BONE)
        yield Organ(f"rib_left_{number}", mirrored(rib), THIN_BONE)


def _cartilages() -> Iterator[Organ]:
    for number in range(1, 11):
        end = _rib_points(number)[-1]
        target = 222.0 - 17 * (number - 1) if number <= 7 else 112.0 - 15 * (number - 7)
        angle = 80.0 if number <= 7 else 80 - 9 * (number - 7)
        between = _on_chest((2 * angle + _RIB_END_DEG[number - 1]) / 3, (end[2] + target) / 2 - 4)
        shapes = tube((end, between, _on_chest(angle, target)), (5.2, 5.2, 4.6))
        yield Organ("costal_cartilages", (*shapes, *mirrored(shapes)), (("cartilage", 0.0),))


def _breast_bone() -> Iterator[Organ]:
    front = {z: CAVITY.section(z)[1] + CAVITY.section(z)[2] + 7 for z in (112, 150, 215)}
    shapes = (
        Ball((0, front[215], 215), (27, 8, 25), 2.5, (-27, 0, 0)),
        Ball((0, front[150], 150), (18, 7.5, 52), 2.5, (-9, 0, 0)),
        Ball((0, front[112] - 1, 100), (9, 5, 18), 2.0, (4, 0, 0)),
    )
    yield Organ("sternum", (Blend(shapes, 6.0),), THIN_BONE)


def _shoulders() -> Iterator[Organ]:
    blade = Blend(
        (
            Ball((104, -76, 192), (36, 6.5, 54), 2.2, (-8, -14, 33)),
            Ball((131, -42, 226), (13, 15, 20)),
            *tube(((84, -92, 222), (120, -76, 240), (150, -42, 254)), (6.0, 7.0, 8.0), step_mm=30),
        ),
        5.0,
    )
    collar = tube(((22, 30, 234), (66, 40, 246), (112, 6, 262), (144, -26, 258)), 6.6)
    upper_arm: tuple[Shape, ...] = (
        Ball((154, -30, 230), (22, 22, 22)),
        *tube(((162, -28, 232), (172, -10, 300), (176, 5, 380), (178, 12, 520)), 13.0, step_mm=40),
    )
    yield from pair("scapula", (blade,), THIN_BONE)
    yield from pair("clavicula", collar, THIN_BONE)
    yield from pair("humerus", upper_arm, THICK_BONE)


def _pelvis() -> Iterator[Organ]:
    hip = Blend(
        (
            Ball((86, -22, -176), (9, 46, 58), 2.2, (14, 22, -26)),  # iliac wing
            Ball((52, -62, -196), (10, 26, 30), 2.0, (0, 10, 35)),  # wing at the sacrum
            Ball((90, -4, -262), (22, 30, 32)),  # socket
            *tube(((76, -30, -288), (66, -40, -312), (48, -22, -330)), (14, 15, 9), step_mm=30),
            *tube(((74, 14, -268), (40, 40, -282), (7, 46, -296)), (11, 9, 9.5), step_mm=30),
            *tube(((12, 42, -300), (34, 8, -322), (50, -22, -330)), (8, 7, 8), step_mm=30),
        ),
        9.0,
    )
    yield from pair("hip", (hip,), THICK_BONE)
    sacrum = (
        Ball((0, -66, -192), (46, 20, 26), 2.5, (-24, 0, 0)),
        Ball((0, -84, -226), (30, 13, 26), 2.2, (-10, 0, 0)),
        Ball((0, -86, -258), (12, 8, 20), 2.0, (20, 0, 0)),
    )
    yield Organ("sacrum", (Blend(sacrum, 12.0),), THICK_BONE)
    thigh_bone: tuple[Shape, ...] = (
        Ball((94, -2, -266), (23, 23, 23)),
        *tube(((96, -3, -268), (122, -10, -284), (134, -10, -312), (128, -4, -360)), 15.0),
        *tube(((128, -4, -356), (108, 4, -560), (96, 0, -760)), 14.0, step_mm=60),
        Ball((138, -18, -284), (15, 17, 20)),  # greater trochanter
    )
    yield from pair(None, (Ball((94, -2, -266), (27, 27, 27)),), (("cartilage", 0.0),))
    yield from pair("femur", thigh_bone, THICK_BONE)


def _skull() -> Iterator[Organ]:
    vault = Ball((0, 8, 440), (68, 86, 84), 2.2)
    yield Organ(None, (vault,), (("cortical", 0.0), ("cord", 6.0)))
