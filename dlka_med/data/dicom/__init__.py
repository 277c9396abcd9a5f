"""DICOM series: found, chosen and read. Of their headers nothing is told but modality, number and shape."""
