"""Pictures as files: PNG, SVG or PDF, with the text that was meant."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from dlka_med.files import whole_file

FORMATS = (".png", ".svg", ".pdf")
# Text stays text, and the same picture is the same file.
TEXT = {"svg.fonttype": "none", "svg.hashsalt": "dlka_med", "pdf.fonttype": 42}
UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


def plain(text: object) -> str:
    """Text as it is written, also where matplotlib would take it for a formula."""
    return str(text).replace("$", r"\$")


def save(figure: Figure, path: str | Path, dpi: int = 130) -> None:
    """Write a picture in the format that its name ends with, PNG for any other; whole or not at all.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    ending = Path(path).suffix.lower()
    kind = ending[1:] if ending in FORMATS else "png"
    with whole_file(path) as temporary, rc_context(TEXT):
        figure.savefig(temporary, dpi=dpi, format=kind, metadata=UNDATED[kind])
