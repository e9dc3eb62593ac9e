"""Python blocks of the documents, with a check of each value that a comment shows."""

from __future__ import annotations

import ast

CHECK = '''
def _check(value, comment):
    """A comment gives the shape of a tensor, or a value of the same structure."""
    import ast, re, torch
    shape = re.search(r"\\[([\\d, ]+)\\]$", comment)
    if isinstance(value, torch.Tensor):
        assert shape and list(value.shape) == [int(n) for n in shape[1].split(",")], (value.shape, comment)
        return
    if comment:
        _equal_structure(value, ast.literal_eval(comment.replace(", …", "")), comment)

def _equal_structure(value, shown, comment):
    assert isinstance(value, type(shown)) and len(value) >= len(shown), (value, comment)
    pairs = [(value[key], shown[key]) for key in shown] if isinstance(shown, dict) else list(zip(value, shown))
    for got, expected in pairs:
        if isinstance(expected, (list, tuple, dict)):
            _equal_structure(got, expected, comment)
        else:
            assert isinstance(got, type(expected)), (got, comment)
'''


def with_checks(body: str) -> str:
    """The block with a check of each expression whose line ends with a comment."""
    lines = body.splitlines()
    for node in ast.parse(body).body:
        if isinstance(node, ast.Expr):
            line = lines[node.end_lineno - 1 if node.end_lineno else 0]
            _, _, comment = line[node.end_col_offset :].partition("# ")
            lines[node.lineno - 1] = f"_check({ast.unparse(node.value)}, {comment!r})"
            for number in range(node.lineno, node.end_lineno or 0):
                lines[number] = ""
    return CHECK + "\n".join(lines)
