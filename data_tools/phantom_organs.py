"""Soft organs of the phantom patient as a painting table: skin, cavities, organs, vessels, muscles.

Not for: bones (`phantom_skeleton`). The frame and its units are those of `phantom_anatomy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from data_tools.phantom_anatomy import BODY, CAVITY, Layers, Organ, pair, spine_y
from data_tools.phantom_shapes import Ball, Blend, Point, Shape, Wedge, tube

# The lower edge of the lungs as a plane (normal, level): it rises towards the front.
LUNG_FLOOR: tuple[Point, float] = ((0.0, 0.3, -1.0), -24.0)


def _solid(tissue: str) -> Layers:
    return ((tissue, 0.0),)


def soft_organs(fat_mm: float) -> tuple[Organ, ...]:
    """All soft organs in painting order.

    Args:
        fat_mm: Thickness of the fat under the skin.
    """
    rows = (_trunk(fat_mm), _chest(), _diaphragm(), _abdomen(), _bowel(), _pelvic_organs())
    return tuple(chain.from_iterable((*rows, _heart(), _great_vessels(), _airways(), _muscles())))


def _trunk(fat_mm: float) -> Iterator[Organ]:
    layers = (("skin", 0.0), ("fat", 2.0), ("muscle", fat_mm))
    limbs = (
        *tube(((158, -28, 222), (174, -8, 300), (180, 8, 560)), (48.0, 46.0, 42.0), step_mm=60),
        *tube(((90, -8, -318), (86, -10, -800)), (84.0, 70.0), step_mm=90),
    )
    yield from pair(None, limbs, layers)
    yield Organ(None, (Ball((0, 10, 430), (76, 96, 112)),), (("skin", 0.0), ("muscle", 5.0)))
    yield Organ(None, (BODY,), layers)
    armpit = Ball((132, -2, 205), (16, 34, 30))
    yield from pair(None, (armpit,), _solid("fat"))
    yield Organ(None, (CAVITY,), _solid("fat"))


def _chest() -> Iterator[Organ]:
    lung = Wedge(
        planes=(((-1.0, 0.0, 0.0), -3.0), LUNG_FLOOR),
        box=((0, -110, -20), (150, 100, 266)),
    )
    yield from pair("lung", (lung,), _solid("lung"), confined=True)
    branches = tuple(chain.from_iterable(_lung_branches()))
    yield from pair("lung", branches, _solid("vein"), confined=True)
    middle = (
        Ball((0, -24, 150), (33, 50, 128), 2.4),
        Ball((-2, 40, 160), (17, 60, 110), 2.4),
    )
    yield Organ(None, (Blend(middle, 20.0),), _solid("fat"), confined=True)


def _lung_branches() -> Iterator[tuple[Shape, ...]]:
    """Vessels from the hilum into the right lung; the left lung gets their mirror image."""
    hilum: Point = (38, -16, 158)
    tips: tuple[Point, ...] = (
        (64, -20, 238), (92, -10, 196), (60, 42, 206), (104, 10, 168), (82, 46, 150),
        (112, -34, 150), (88, -66, 172), (76, -76, 122), (112, -40, 104), (104, -58, 66),
        (66, -80, 66), (108, 36, 116),
    )  # fmt: skip
    for x, y, z in tips:
        bend: Point = (0.55 * hilum[0] + 0.45 * x, 0.55 * hilum[1] + 0.45 * y - 4, 0.5 * (158 + z))
        yield tube((hilum, bend, (x, y, z)), (6.0, 3.6, 1.4), step_mm=20)


def _diaphragm() -> Iterator[Organ]:
    """The abdomen's domes, which push into the chest from below and leave the lungs a rim."""
    domes = (
        Ball((66, 4, -4), (64, 77, 116)),
        Ball((-66, 4, -14), (62, 77, 112)),
        Ball((0, 22, -30), (74, 58, 106)),
    )
    yield Organ(None, (Blend(domes, 16.0),), (("muscle", 0.0), ("fat", 2.5)), confined=True)
    (across, ahead, up), level = LUNG_FLOOR
    below = Wedge(
        planes=(((-across, -ahead, -up), -level - 3.0),),
        box=((-140, -110, -130), (140, 100, 60)),
    )
    yield Organ(None, (below,), _solid("fat"), confined=True)


def _abdomen() -> Iterator[Organ]:
    liver = Blend(
        (
            Ball((67, 2, 36), (58, 73, 70), 2.3),
            Ball((88, 6, -22), (29, 46, 50), 2.1, (0, 8, 0)),
            Ball((2, 38, 56), (76, 33, 30), 2.0, (0, -8, 6)),
        ),
        26.0,
    )
    yield Organ("liver", (liver,), _solid("liver"), sway_mm=3.0, confined=True)
    for tip in ((104, -22, 66), (70, 34, 78), (26, 44, 66)):
        shapes = tube(((27, -8, 84), ((tip[0] + 30) / 2, (tip[1] - 4) / 2, 82), tip), (5, 4, 2.0))
        yield Organ("liver", shapes, _solid("vein"), confined=True)
    yield from _stomach()
    spleen = Blend(
        (
            Ball((-95, -36, 42), (25, 44, 50), 2.3, (-24, 8, 14)),
            Ball((-88, -58, 62), (22, 22, 30)),
        ),
        16.0,
    )
    yield Organ("spleen", (spleen,), _solid("spleen"), sway_mm=3.0, confined=True)
    yield from _kidneys()
    gallbladder = Ball((54, 44, -2), (15, 17, 27), 2.0, (30, 0, 0))
    yield Organ(
        "gallbladder", (gallbladder,), (("bowel_wall", 0.0), ("bile", 2.0)), 2.0, confined=True
    )


def _stomach() -> Iterator[Organ]:
    points = ((-58, -22, 76), (-72, 2, 58), (-70, 32, 28), (-44, 46, 2), (-8, 44, -2), (18, 34, 8))
    body = Blend(tube(points, (30.0, 36.0, 33.0, 26.0, 18.0, 12.0), step_mm=26), 8.0)
    layers = (("bowel_wall", 0.0), ("bowel_content", 4.0))
    yield Organ("stomach", (body,), layers, sway_mm=2.5, confined=True)
    bubble = Ball((-66, 44, 36), (22, 13, 24), 2.0, (18, 0, 0))
    yield Organ("stomach", (bubble,), _solid("gas"), confined=True)


def _kidneys() -> Iterator[Organ]:
    """Kidneys in their fat; the right one lies lower, under the liver."""
    for side, z in (("right", -26.0), ("left", -10.0)):
        sign = 1 if side == "right" else -1
        turn = (-8.0, 10.0 * sign, 28.0 * sign)
        bed = Ball((sign * 54, -66, z - 10), (34, 30, 48), 2.0, turn)
        kidney = Ball((sign * 64, -43, z), (30, 26, 57), 2.2, turn)
        pelvis = Ball((sign * 46, -37, z), (15, 8, 18), 2.0, turn)
        yield Organ(None, (bed,), _solid("fat"), confined=True)
        layers = (("fat", -5.0), ("kidney", 0.0))
        yield Organ(f"kidney_{side}", (kidney,), layers, sway_mm=3.0, confined=True)
        yield Organ(None, (pelvis,), (("fat", 0.0), ("fluid", 3.5)))
    yield from pair("adrenal_gland", tube(((30, -28, 44), (40, -42, 20)), 7.0), _solid("gland"))


def _bowel() -> Iterator[Organ]:
    wall = ("bowel_wall", 0.0)
    yield Organ(
        "small_bowel", _bowel_loops(), (wall, ("bowel_content", 3.0)), sway_mm=1.5, confined=True
    )
    frame = (
        (88, 2, -168), (98, -8, -120), (97, -10, -70), (84, 34, -44), (40, 60, -42), (0, 62, -50),
        (-44, 60, -36), (-86, 34, -14), (-98, -14, -6), (-101, -18, -60), (-98, -12, -120),
        (-82, 4, -170), (-50, 10, -200), (-14, -18, -206), (-2, -48, -232), (0, -54, -290),
    )  # fmt: skip
    widths = (22, 22, 21, 20, 19, 19, 19, 18, 18, 17, 16, 16, 16, 17, 19, 16)
    yield Organ("colon", tube(frame, widths), (wall, ("stool", 3.0)), 1.0, confined=True)
    for x, y, z in ((44, 66, -42), (6, 69, -48), (-46, 66, -34), (94, 4, -146), (-90, 26, -12)):
        yield Organ("colon", (Ball((x, y, z), (17, 9, 10)),), _solid("gas"), confined=True)
    arch = ((18, 34, 8), (42, 22, 2), (50, 4, -28), (38, 2, -58), (4, 6, -64), (-26, 14, -48))
    yield Organ("duodenum", tube(arch, 12.5), (wall, ("bowel_content", 3.0)), confined=True)
    head_to_tail = ((34, 10, -22), (14, 22, -2), (-22, 14, 16), (-66, -18, 34))
    yield Organ("pancreas", tube(head_to_tail, (17, 12.5, 12, 11)), _solid("pancreas"), 1.5)
    portal = ((-74, -26, 40), (-26, 2, 20), (8, 8, 10), (28, 12, 30), (44, 8, 50))
    yield Organ("portal_vein_and_splenic_vein", tube(portal, (6, 7, 8, 8, 7)), _solid("vein"))


def _bowel_loops() -> tuple[Shape, ...]:
    """One long tube that winds down through the lower abdomen without meeting itself too often."""
    way = np.linspace(0, 2 * np.pi, 96)
    across = 60 * np.sin(7.3 * way) + 12 * np.sin(15.7 * way)
    ahead = 34 + 22 * np.sin(10.9 * way + 0.8)
    down = -64 - 21 * way + 11 * np.sin(3.1 * way + 2)
    points = ((float(x), float(y), float(z)) for x, y, z in zip(across, ahead, down, strict=True))
    return tube(tuple(points), 13.0)


def _pelvic_organs() -> Iterator[Organ]:
    bladder = Ball((0, 16, -262), (40, 33, 29), 2.2)
    layers = (("bowel_wall", 0.0), ("urine", 3.5))
    yield Organ("urinary_bladder", (bladder,), layers, sway_mm=2.0)
    yield Organ("prostate", (Ball((0, 4, -298), (22, 18, 14)),), _solid("muscle"))


def _heart() -> Iterator[Organ]:
    turn = (22.0, -28.0, -18.0)
    outline = Blend(
        (Ball((-18, 22, 116), (52, 42, 50), 2.0, turn), Ball((4, 8, 144), (36, 32, 28))), 14.0
    )
    chambers: tuple[tuple[str, Ball], ...] = (
        ("artery", Ball((-34, 14, 112), (20, 19, 34), 2.0, turn)),
        ("vein", Ball((0, 40, 116), (30, 16, 26), 2.0, turn)),
        ("vein", Ball((24, 12, 128), (20, 22, 26))),
        ("artery", Ball((-6, -10, 142), (26, 16, 18))),
    )
    yield Organ("heart", (outline,), (("fat", -4.0), ("myocardium", 0.0)), sway_mm=1.5)
    for blood, chamber in chambers:
        yield Organ("heart", (chamber,), _solid(blood))


def _great_vessels() -> Iterator[Organ]:
    arch = ((-4, 14, 150), (10, 20, 182), (4, 2, 212), (-14, -28, 204), (-20, -43, 170),
            (-18, -44, 100), (-13, -32, 34), (-7, -18, -40), (-2, -16, -126))  # fmt: skip
    lower_vein = ((14, -16, -134), (18, -16, -60), (22, -10, 20), (26, -2, 70), (25, 4, 108))
    iliac_artery = ((3, -16, -126), (32, -26, -178), (60, 14, -248), (74, 34, -300))
    iliac_vein = ((12, -20, -136), (36, -36, -184), (56, 4, -252), (62, 28, -300))
    yield Organ("inferior_vena_cava", tube(lower_vein, 11.5), _solid("vein"))
    yield Organ("superior_vena_cava", tube(((25, 10, 140), (25, 6, 206)), 9.5), _solid("vein"))
    yield Organ("aorta", tube(arch, (15, 15, 14, 13, 12.5, 12, 12, 11, 10)), _solid("artery"))
    yield from pair("iliac_artery", tube(iliac_artery, 6.8), _solid("artery"))
    yield from pair("iliac_vena", tube(iliac_vein, 7.4), _solid("vein"))
    trunk = tube(((-18, 34, 158), (-14, 14, 180)), 13.0)
    branches = tube(((52, -14, 168), (10, -10, 178), (-14, 10, 182), (-52, -20, 180)), 10.0)
    yield Organ("pulmonary_artery", trunk + branches, _solid("vein"))
    roots = ((54, -32, 134), (26, -24, 146), (-8, -18, 144), (-32, -24, 148), (-56, -34, 138))
    yield Organ("pulmonary_vein", tube(roots, (6, 8, 9, 8, 6)), _solid("artery"))
    yield Organ("brachiocephalic_trunk", tube(((6, 2, 216), (24, 7, 250)), 8.0), _solid("artery"))
    right_vein = tube(((25, 7, 206), (48, 18, 244)), 7.5)
    left_vein = tube(((25, 7, 206), (-8, 24, 224), (-48, 18, 244)), 7.5)
    yield Organ("brachiocephalic_vein_right", right_vein, _solid("vein"))
    yield Organ("brachiocephalic_vein_left", left_vein, _solid("vein"))
    outer = ((62, 6, 256), (108, 4, 246))
    right_arm = tube(((22, 6, 244), *outer), 6.4)
    left_arm = tube(((-16, -14, 210), (-34, -6, 244), *((-x, y, z) for x, y, z in outer)), 6.4)
    yield Organ("subclavian_artery_right", right_arm, _solid("artery"))
    yield Organ("subclavian_artery_left", left_arm, _solid("artery"))
    right_neck = tube(((22, 5, 242), (28, 0, 264), (28, -4, 330)), 6.2)
    left_neck = tube(((-8, -4, 214), (-26, 0, 258), (-28, -4, 330)), 6.2)
    yield Organ("common_carotid_artery_right", right_neck, _solid("artery"))
    yield Organ("common_carotid_artery_left", left_neck, _solid("artery"))


def _airways() -> Iterator[Organ]:
    gullet = ((0, -22, 330), (0, -24, 270), (-3, -38, 205), (-6, -34, 130), (-28, -14, 84))
    yield Organ("esophagus", tube(gullet, 8.0), (("muscle", 0.0), ("bowel_content", 5.0)))
    wall = (("cartilage", 0.0), ("gas", 2.0))
    yield Organ("trachea", tube(((0, -4, 330), (0, -8, 270), (2, -20, 176)), 10.5), wall)
    bronchus = tube(((2, -20, 176), (26, -22, 162), (48, -20, 150)), (8.5, 8.0, 6.5))
    yield from pair(None, bronchus, wall)
    lobe = Ball((18, -2, 268), (9.5, 13, 22), 2.0, (0, 8, 0))
    yield Organ("thyroid_gland", (lobe, lobe.mirrored()), _solid("thyroid"))


def _muscles() -> Iterator[Organ]:
    back = tuple((25.0, spine_y(z) - 34 + 0.02 * z, float(z)) for z in range(-176, 260, 36))
    erector = tube(back, tuple(19.5 if z < 60 else 15.5 for _, _, z in back))
    yield from pair("autochthon", erector, _solid("muscle"))
    hip_bender = ((36, -38, -14), (42, -36, -90), (52, -22, -160), (72, 8, -230), (96, 14, -292))
    yield from pair("iliopsoas", tube(hip_bender, (13, 20, 22, 21, 14)), _solid("muscle"))
    for name, ball in (
        ("gluteus_maximus", Ball((72, -79, -252), (58, 24, 66), 2.3, (8, 0, 14))),
        ("gluteus_medius", Ball((116, -28, -196), (19, 48, 54), 2.2, (0, 14, -10))),
        ("gluteus_minimus", Ball((110, 2, -222), (12, 30, 34), 2.2, (0, 14, -14))),
    ):
        yield from pair(name, (ball,), (("fat", -2.0), ("muscle", 0.0)))
    straight = Ball((33, 86, -62), (27, 8, 132), 3.0, (0, 0, -10))
    yield from pair("rectus_abdominis", (straight,), (("fat", -1.5), ("muscle", 0.0)))
