"""Text that a user wrote or exported, with a word on what to do if it cannot be read."""

import codecs
from pathlib import Path

from dlka_med.errors import InputError
from dlka_med.paths import shown

OTHER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def read_text(path: str | Path) -> str:
    """The content of a UTF-8 file, without the byte-order mark that programs on Windows put first.

    Raises:
        InputError: there is no such file, it is a folder or unreadable, or its text is of another encoding.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{shown(path)} cannot be read: {error}") from error
    if content.startswith(OTHER_MARKS) or b"\0" in content[:4]:
        raise InputError(f"{path} is saved as UTF-16, which Windows calls Unicode: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: this is not UTF-8 text: save it as UTF-8") from error
