"""JSON files that a user hands over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlp.system.errors import UserError


def read_json(path: Path) -> Any:
    """The content of a UTF-8 file. Raises UserError where it is not JSON, OSError where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise UserError(f"{path}: not a JSON file ({error}); copy or download it again") from error
