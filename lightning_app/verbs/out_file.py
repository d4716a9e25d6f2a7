"""The file that a verb writes at its end, looked at before its work begins."""

from pathlib import Path

from modules.errors import UserError


def check_out_file(out: str) -> Path:
    """Return the file of ``--out``.

    Raises:
        UserError: it cannot be written, because it is a folder, or in a folder that is not there.
    """
    file = Path(out)
    if file.is_dir():
        raise UserError(f"--out {out}: that is a folder; name a file")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {file.parent}; make it first")
    return file
