"""JSON files that a user hands over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlp.system.errors import UserError


def read_json(path: Path) -> Any:
    """The content of a UTF-8 file. Raises UserError where it is not JSON, OSError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise UserError(f"{path}: not a JSON file ({error}); copy or download it again") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """As `read_json`; a UserError also where the file holds no object."""
    content = read_json(path)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path}: holds a {kind} instead of an object {{key: value}}; copy or download it again")
    return content
