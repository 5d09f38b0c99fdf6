"""The text form `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), ...)`: read without eval.

The text is parsed into a syntax tree and only calls of Genotype and range, lists, tuples, strings and integers are
walked; anything else is refused.
"""

import ast
from collections.abc import Callable, Sequence
from typing import Any

from ofa_kit.errors import WeightsError
from ofa_kit.nas.cells.genotype import Cell, Genotype

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
MOST_NODES = 1000
"""A longer range is no cell."""


def read_genotype(text: str) -> Genotype:
    """Return the genotype in a text such as `Genotype(...)` or `NAME = Genotype(...)`; a WeightsError when none is."""
    values = call_arguments(text, FIELDS)
    return Genotype(
        Cell.of_pairs(pairs_of(values["normal"]), nodes_of(values["normal_concat"])),
        Cell.of_pairs(pairs_of(values["reduce"]), nodes_of(values["reduce_concat"])),
    )


def write_genotype(genotype: Genotype) -> str:
    """Return the text form; a row of neighbouring nodes is written as a range."""
    parts = []
    for name, cell in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        if any(len(edges) != 2 for edges in cell.nodes):
            raise WeightsError("the text form holds cells whose nodes read two others each; this one has other nodes")
        parts += [f"{name}={cell.pairs}", f"{name}_concat={written_nodes(cell.concat)}"]
    return f"Genotype({', '.join(parts)})"


def call_arguments(text: str, fields: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """Return the arguments of the one call of Genotype in a text, by name: lists, tuples, strings and integers.

    `optional` ones are given by name or not at all.
    """
    found = _call(text)
    if len(found.args) > len(fields):
        raise _refused(text, f"{len(found.args)} arguments where {len(fields)} are known")
    named = dict(zip(fields, found.args, strict=False))
    for keyword in found.keywords:
        if keyword.arg is None or keyword.arg not in (*fields, *optional) or keyword.arg in named:
            raise _refused(text, f"the argument '{keyword.arg}' is unknown or given twice")
        named[keyword.arg] = keyword.value
    missing = [name for name in fields if name not in named]
    if missing:
        raise _refused(text, f"without {', '.join(missing)}")
    return {name: _value(node, text) for name, node in named.items()}


def pairs_of(value: object) -> list[tuple[str, int]]:
    """Return (operation, input) pairs; a WeightsError when the value is no list of such."""
    pairs = value if isinstance(value, list | tuple) else [value]
    found = []
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise WeightsError(f"a genotype lists (operation, input) pairs, found {pair!r}")
        operation, source = pair
        if not isinstance(operation, str) or not isinstance(source, int):
            raise WeightsError(f"a genotype lists pairs of a name and a number, found {pair!r}")
        found.append((operation, source))
    return found


def nodes_of(value: object) -> list[int]:
    """Return node numbers; a WeightsError when the value is no list of integers."""
    if not isinstance(value, list | tuple) or not all(isinstance(node, int) for node in value):
        raise WeightsError(f"a genotype joins nodes by number, found {value!r}")
    return list(value)


def written_nodes(nodes: Sequence[int]) -> str:
    """Return `range(a, b)` where the nodes are neighbours in order, else a list."""
    start, end = nodes[0], nodes[0] + len(nodes)
    return f"range({start}, {end})" if list(nodes) == list(range(start, end)) else str(list(nodes))


def _call(text: str) -> ast.Call:
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, f"not readable ({error})") from error
    value = body[0].value if len(body) == 1 and isinstance(body[0], ast.Assign | ast.Expr) else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.func.id != "Genotype":
        raise _refused(text, "something else than one Genotype(...)")
    return value


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (str, int):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        kind: Callable[..., Any] = list if isinstance(node, ast.List) else tuple
        return kind([_value(item, text) for item in node.elts])
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords:
        bounds = [_value(item, text) for item in node.args]
        if 1 <= len(bounds) <= 2 and all(isinstance(bound, int) and 0 <= bound <= MOST_NODES for bound in bounds):
            return list(range(*bounds))
    raise _refused(text, f"`{ast.unparse(node)[:60]}`")


def _refused(text: str, found: str) -> WeightsError:
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return WeightsError(
        f"'{shown}' is no genotype: found {found}; give Genotype(normal=[('sep_conv_3x3', 1), ...], "
        "normal_concat=range(2, 6), reduce=[...], reduce_concat=range(2, 6))"
    )
