"""The label order of the published STU-Net weights.

Not the order of TotalSegmentator's own class maps: names are sorted as plain strings here, so that
`rib_left_10` comes before `rib_left_2`.
"""

from __future__ import annotations

_SINGLE = [
    "aorta",
    "brain",
    "colon",
    "duodenum",
    "esophagus",
    "face",
    "gallbladder",
    "heart_myocardium",
    "inferior_vena_cava",
    "liver",
    "lung_middle_lobe_right",
    "pancreas",
    "portal_vein_and_splenic_vein",
    "pulmonary_artery",
    "sacrum",
    "small_bowel",
    "spleen",
    "stomach",
    "trachea",
    "urinary_bladder",
]
_PAIRED = [
    "adrenal_gland",
    "autochthon",
    "clavicula",
    "femur",
    "gluteus_maximus",
    "gluteus_medius",
    "gluteus_minimus",
    "heart_atrium",
    "heart_ventricle",
    "hip",
    "humerus",
    "iliac_artery",
    "iliac_vena",
    "iliopsoas",
    "kidney",
    "lung_lower_lobe",
    "lung_upper_lobe",
    "scapula",
]
_VERTEBRAE = {"C": 7, "T": 12, "L": 5}
_RIBS = 12


def stunet_labels() -> dict[str, int]:
    """Return name to value of the 105 labels of the published weights, `background: 0` included.

    Source: uni-medical/STU-Net, 104 structures of TotalSegmentator v1 in ASCII order.

    >>> [stunet_labels()[name] for name in ("adrenal_gland_left", "liver", "vertebrae_T9")]
    [1, 40, 104]
    """
    names = [
        *_SINGLE,
        *(f"{name}_{side}" for name in _PAIRED for side in ("left", "right")),
        *(f"vertebrae_{part}{i + 1}" for part, count in _VERTEBRAE.items() for i in range(count)),
        *(f"rib_{side}_{i + 1}" for side in ("left", "right") for i in range(_RIBS)),
    ]
    return {name: value for value, name in enumerate(["background", *sorted(names)])}
