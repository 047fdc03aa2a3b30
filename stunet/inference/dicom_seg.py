"""A label map as a DICOM segmentation object that refers to the images it was made from.

Needs the extra `dicom` (highdicom, pydicom) and a scan that was read from a DICOM series. Binary
segments, one per structure that was found.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stunet.errors import ConfigError, VolumeError
from stunet.io.atomic import atomic_write_bytes
from stunet.io.dicom import series_files
from stunet.io.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

CATEGORY = ("123037004", "SCT", "Anatomical structure")
# A private coding scheme, as DICOM PS3.3 section 8.2 lets one name it: the codes are label values.
SCHEME = "99STUNET"
IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
SERIES_NUMBER = 900  # far above those of scanners


def check_dicom_seg() -> None:
    """Make sure before any work that segmentation objects can be written.

    Raises:
        ConfigError: The extra `dicom` is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise ConfigError("DICOM-SEG needs highdicom; run 'pip install stunet[dicom]'") from None


def write_dicom_seg(
    path_dcm: Path, label_zyx: np.ndarray, like: Volume, labels: Mapping[str, int]
) -> None:
    """Write the segmentation of a DICOM series, atomically.

    The object's UIDs are a function of the series and the labels: the same result twice is the same
    object. Segments are numbered by ascending label value.

    Args:
        path_dcm: The file to write.
        label_zyx: Label values on the oriented grid of `like`.
        like: The scan, as read from the folder of its series.
        labels: Structure name to value.

    Raises:
        VolumeError: The scan does not come from a DICOM series, or from one without identifiers.
    """
    if like.source.format != "dicom":
        raise VolumeError(
            f"{like.source.path}: is no DICOM series, so that no DICOM-SEG can refer to it; "
            "leave out --dicom-seg"
        )
    stored_kji = like.source.orientation.to_stored(label_zyx[None])[0]
    present = set(np.unique(stored_kji).tolist())
    named = sorted(((value, name) for name, value in labels.items() if value), key=lambda x: x[0])
    found = [(value, name) for value, name in named if value in present] or named
    segment_of = np.zeros(int(max(present | {named[-1][0]})) + 1, np.uint16)
    for number, (value, _) in enumerate(found, start=1):
        segment_of[value] = number
    stream = io.BytesIO()
    _segmentation(like.source.path, segment_of[stored_kji], found).save_as(stream)
    atomic_write_bytes(path_dcm, stream.getvalue())


def _segmentation(
    folder: Path, segments_kji: np.ndarray, found: list[tuple[int, str]]
) -> Segmentation:
    import highdicom as hd
    import pydicom
    from pydicom.uid import generate_uid

    images = [pydicom.dcmread(file) for file in series_files(folder)]
    for keyword in IDENTIFIERS:
        if not images[0].get(keyword):
            raise VolumeError(
                f"{folder}: its files have no {keyword} (removed with the patient's name?), so that"
                " no DICOM-SEG can refer to them; leave out --dicom-seg"
            )
    identity = [images[0].SeriesInstanceUID, hashlib.sha256(segments_kji.tobytes()).hexdigest()]
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=segments_kji,
        omit_empty_frames=bool(segments_kji.any()),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, value, name) for number, (value, name) in enumerate(found, start=1)
        ],
        series_instance_uid=generate_uid(entropy_srcs=["series", *identity]),
        sop_instance_uid=generate_uid(entropy_srcs=["instance", *identity]),
        series_number=SERIES_NUMBER,
        instance_number=1,
        manufacturer="stunet",
        manufacturer_model_name="stunet",
        software_versions=version("stunet"),
        device_serial_number="0",
        series_description="stunet segmentation",
    )


def _description(number: int, value: int, name: str) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=hd.sr.CodedConcept(*CATEGORY),
        segmented_property_type=hd.sr.CodedConcept(str(value), SCHEME, name[:64]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="stunet", version=version("stunet"), family=codes.DCM.ArtificialIntelligence
        ),
    )
