"""Lists of classes by code, in the forms that ImageNet's names are distributed in.

    {"n01440764": "tench", ..}                     JSON, by the folder's name
    {"0": ["n01440764", "tench"], ..}              JSON, Keras' imagenet_class_index.json
    n01440764 tench, Tinca tinca                   text: LOC_synset_mapping.txt, or the lines of such a form in the README of
                                                   ImageNet-A and ImageNet-R

Of several names of a class the first is used.
"""

from __future__ import annotations

import re
from pathlib import Path

from vlp.data.annotation_files import read_json, read_lines
from vlp.data.issues import DataError
from vlp.datasets.common.class_names import clean_label

_LINE = re.compile(r"\s*(n\d{8})[\s:]+(\S.*?)\s*")


def read_class_list(path: Path) -> dict[str, str]:
    """The name of each code, in the file's order, of those that have a text.  Raises DataError for another form."""
    if path.suffix != ".json":
        matches = [_LINE.fullmatch(line) for _, line in read_lines(path, description="the file of class names")]
        found = {match[1]: first_name(match[2]) for match in matches if match is not None}
        if not found:
            message = f"{path}: expected lines such as 'n01440764 tench, Tinca tinca', or a JSON file {{folder: name}}"
            raise DataError("unexpected structure", message)
        return found
    content = read_json(path, description="the file of class names")
    if not isinstance(content, dict):
        raise DataError("unexpected structure", f"{path}: expected an object {{folder: name}}")
    if content and all(isinstance(value, list) and len(value) == 2 for value in content.values()):
        if not all(key.isdecimal() for key in content):
            raise DataError("unexpected structure", f"{path}: expected {{number: [code, name]}}")
        pairs = [content[key] for key in sorted(content, key=int)]
        return {str(code): str(name).replace("_", " ") for code, name in pairs}
    return {clean_label(folder): name for folder, name in content.items() if isinstance(name, str)}


def first_name(names: str) -> str:
    """ "tench, Tinca tinca" → "tench"."""
    return names.partition(",")[0].strip()
