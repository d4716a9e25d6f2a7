"""JSON files of model folders."""

import json
from pathlib import Path
from typing import Any

from modules.errors import UserError


def read_json(path: Path, default: Any = None) -> Any:
    """The content of a JSON file; `default` where there is no such file.

    Raises:
        UserError: it is not valid JSON.
    """
    if not path.is_file():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
