"""The extra `clinic`, which not everybody has installed."""

from dlka_med.errors import InputError


def lacking(error: ImportError, package: str, what: str) -> ImportError | InputError:
    """What to raise where a package of the extra cannot be imported: the error itself if the fault lies deeper.

    Args:
        what: begins the sentence, such as "DICOM is read".
    """
    if (error.name or "").partition(".")[0] != package:
        return error
    return InputError(f'{what} with {package}, which is not installed: pip install "dlka_med[clinic]"')
