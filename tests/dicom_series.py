"""Made-up DICOM series, slice by slice, of a volume whose affine is known; and real ones that pydicom ships."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

REAL = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
PATIENT = "Mustermann^Erika"
BIRTH = "19640812"
SHAPE = (7, 6, 5)


def oblique(spacing=(0.7, 1.25, 2.5), shear=(0.0, 0.0), origin=(-40.5, 22.25, 130)) -> np.ndarray:
    """Voxel -> world (RAS, mm); `shear` displaces each slice within its plane by so many mm."""
    affine = np.eye(4)
    turned = Rotation.from_euler("xyz", [8, -12, 15], degrees=True).as_matrix()
    # As DICOM sorts slices, along the normal of their planes; in RAS that is x cross y all the same.
    axes = np.diag(spacing)
    axes[:2, 2] = shear
    affine[:3, :3] = turned @ axes
    affine[:3, 3] = origin
    return affine


def voxels_of(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 1500, shape).astype(np.int16)


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    number: int = 1,
    patient: str = "P-1",
    name: str = PATIENT,
    change: Callable[[Dataset, int], None] | None = None,
    skip: tuple[int, ...] = (),
    stem: str = "IM",
) -> list[FileDataset]:
    """Write (columns, rows, slices) int16, in files whose names do not tell the order of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    kind = CTImageStorage if modality == "CT" else MRImageStorage
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for place, index in enumerate(np.random.default_rng(number).permutation(voxels.shape[2])):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        one.SOPClassUID, one.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
        one.SpecificCharacterSet = "ISO_IR 100"
        one.PatientName, one.PatientID, one.PatientBirthDate, one.PatientSex = name, patient, BIRTH, "F"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.StudyDate, one.StudyTime, one.StudyID, one.AccessionNumber = "20200101", "120000", "7", "A1"
        one.ReferringPhysicianName, one.Manufacturer, one.PositionReferenceIndicator = "Arzt^A", "Maker", ""
        one.Modality, one.SeriesNumber, one.InstanceNumber = modality, number, int(index) + 1
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.ImagePositionPatient = [f"{value:.10f}"[:16] for value in lps[:3] @ [0, 0, index, 1]]
        one.ImageOrientationPatient = [f"{value:.12f}"[:16] for value in (lps[:3, :2] / spacing[:2]).T.ravel()]
        one.PixelSpacing, one.SliceThickness = [f"{spacing[1]:.10f}", f"{spacing[0]:.10f}"], "9"
        one.Rows, one.Columns = voxels.shape[1], voxels.shape[0]
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        if modality == "CT":
            one.RescaleSlope, one.RescaleIntercept, one.KVP = "1", "0", "120"
        one.PixelData = np.ascontiguousarray(voxels[:, :, index].T).tobytes()
        if change is not None:
            change(one, int(index))
        if index not in skip:
            one.save_as(folder / f"{stem}{place:03d}", enforce_file_format=True)
            made.append(one)
    return made


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, affine), path)
