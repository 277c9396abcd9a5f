"""Label maps as DICOM-SEG, which refers to the series that was predicted."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dlka_med import __version__
from dlka_med.config.dataset import Segment
from dlka_med.config.labels import LabelScheme
from dlka_med.data.clinic import lacking
from dlka_med.data.dicom.choice import choose
from dlka_med.data.dicom.geometry import Stack, stack
from dlka_med.data.dicom.headers import BROKEN, fault_of, quietly
from dlka_med.data.dicom.volume import source_headers
from dlka_med.errors import InputError
from dlka_med.files import whole_file

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

MAKER = "dlka_med"
OWN_SCHEME = "99DLKA"  # 99 begins the names of private schemes
TISSUE = ("85756007", "SCT", "Tissue")
ARTIFICIAL = ("123110", "DCM", "Artificial Intelligence")
SERIES_NUMBER = 9000
LONGEST = 64  # characters of a name
# May be empty but not absent, and real files lack them.
ALWAYS_THERE = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")
ALSO_THERE = ("AccessionNumber", "ReferringPhysicianName")

logging.getLogger("highdicom").addHandler(logging.NullHandler())  # its words may hold what the header does


def write_dicom_seg(
    path: Path,
    classes: np.ndarray,
    scheme: LabelScheme,
    source: Path,
    series: str | None = None,
    segments: Mapping[str, Segment] | None = None,
) -> None:
    """Write a binary segmentation with a segment for each label or region; whole or not at all.

    Patient, study and frame of reference are those of the series. Planes in which a segment is empty are left out.

    Args:
        classes: class indices of `scheme`, (columns, rows, slices) as the series was read.
        source: folder, zip file or file of the series.
        series: its UID or number; None: the only one that is a volume.
        segments: colours and codes by label; a label without a code gets one of a private scheme, `99DLKA`.

    Raises:
        InputError: highdicom is not installed, or the series has changed or lacks what a segmentation refers to.
    """
    try:
        import highdicom
    except ImportError as error:
        raise lacking(error, "highdicom", "DICOM-SEG is written") from error
    found = stack(choose(source, series))
    if found.shape != classes.shape:
        raise InputError(f"{source} changed since it was read: it has {found.shape} voxels, not {classes.shape}")
    described = [
        _described(number, name, (segments or {}).get(name, Segment()))
        for number, name in enumerate(scheme.targets, start=1)
    ]
    with quietly():
        images = source_headers(found)
        for image in images:
            image.decode()
            image.SpecificCharacterSet = "ISO_IR 192"  # so that every name of a label can be written
            for key in (*ALWAYS_THERE, *ALSO_THERE):
                image.setdefault(key, "")
        if not all(image.get("FrameOfReferenceUID") for image in images):
            raise InputError(
                f"{source} has no FrameOfReferenceUID, which DICOM-SEG refers to: choose another format, such as "
                "--format nii.gz"
            )
        try:
            made = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=_planes(found, classes, scheme),
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=described,
                series_instance_uid=highdicom.UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer=MAKER,
                manufacturer_model_name=MAKER,
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGMENTATION",
                content_description="Labels by dlka_med",
                series_description="Segmentation by dlka_med",
            )
            with whole_file(path) as temporary:
                made.save_as(temporary)
        except BROKEN as error:
            if isinstance(error, OSError | InputError):
                raise
            raise InputError(
                f"{source} {fault_of(images[0], error)}, which DICOM-SEG refers to: choose another format, such as "
                "--format nii.gz"
            ) from None  # its words hold the value


def _planes(found: Stack, classes: np.ndarray, scheme: LabelScheme) -> np.ndarray:
    """Segments of each plane in the order of the source: (planes, rows, columns) numbers, of regions bits behind."""
    planes = classes.T
    if found.slices[0].frame is not None:
        planes = planes[np.argsort([one.frame for one in found.slices])]
    if scheme.has_regions:
        regions = np.empty((*planes.shape, len(scheme.targets)), np.uint8)
        for number, name in enumerate(scheme.targets):
            regions[..., number] = scheme.mask(name, planes)
        return regions
    numbers = np.zeros(len(scheme.values), np.uint8)
    for number, (index,) in enumerate(scheme.targets.values(), start=1):
        numbers[index] = number
    return numbers[planes]


def _described(number: int, name: str, segment: Segment) -> "SegmentDescription":
    import highdicom
    from highdicom.color import CIELabColor
    from highdicom.sr import CodedConcept

    code = segment.code or (str(number), OWN_SCHEME, name[:LONGEST])
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:LONGEST],
        segmented_property_category=CodedConcept(*TISSUE),
        segmented_property_type=CodedConcept(*code),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MAKER, family=CodedConcept(*ARTIFICIAL), version=__version__
        ),
        display_color=None if segment.color is None else CIELabColor.from_rgb(*segment.color),
    )
