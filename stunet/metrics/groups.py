"""The anatomical group of a structure, for means over groups.

The five groups are those that the STU-Net paper reports, which are TotalSegmentator v1's parts; so
the aorta is among the organs, and oesophagus, bowel and brain are with the heart. Structures that
only v2 has follow v2's parts. Names are English and lower case apart from `C1`; anything else is
"other".
"""

from __future__ import annotations

import re

_STEMS = {  # names without side and number
    "organs": """spleen kidney gallbladder liver stomach aorta inferior_vena_cava
        portal_vein_and_splenic_vein pancreas adrenal_gland lung lung_upper_lobe lung_middle_lobe
        lung_lower_lobe thyroid_gland prostate kidney_cyst""",
    "vertebrae": "vertebrae",
    "cardiac": """esophagus trachea heart heart_myocardium heart_atrium heart_ventricle
        pulmonary_artery brain iliac_artery iliac_vena small_bowel duodenum colon urinary_bladder
        bladder face pulmonary_vein brachiocephalic_trunk subclavian_artery common_carotid_artery
        brachiocephalic_vein atrial_appendage superior_vena_cava""",
    "muscles": """humerus scapula clavicula femur hip sacrum gluteus_maximus gluteus_medius
        gluteus_minimus autochthon iliopsoas spinal_cord skull""",
    "ribs": "rib sternum costal_cartilages",
}
_GROUP_OF_STEM = {stem: group for group, stems in _STEMS.items() for stem in stems.split()}
GROUPS = (*_STEMS, "other")


def group_of(structure: str) -> str:
    """Group of a structure by its name: one of `GROUPS`.

    Side and number do not matter, nor whether words are joined by a space or an underscore.

    >>> group_of("rib_left_4"), group_of("right kidney"), group_of("vertebrae_T9"), group_of("C3")
    ('ribs', 'organs', 'vertebrae', 'vertebrae')
    >>> group_of("tumour")
    'other'
    """
    if re.fullmatch(r"(vertebrae_)?([CTL]\d{1,2}|S1)", structure):
        return "vertebrae"
    words = structure.replace(" ", "_").split("_")
    stem = "_".join(w for w in words if w not in ("left", "right") and not w.isdigit())
    return _GROUP_OF_STEM.get(stem, "other")
