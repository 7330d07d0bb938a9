"""Nodes by an expression over the columns, as `pandas.DataFrame.query` takes it, but one that cannot run code.

The text's syntax tree is checked first: only columns, literals, comparisons and arithmetic reach pandas, which would
otherwise call functions and read attributes and variables.
"""

import ast
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from attrgraph.errors import AttrGraphError, checked
from attrgraph.graph.select import check_kinds, meant
from attrgraph.graph.selections import Selection
from attrgraph.schema import COLUMNS, KINDS, canonical_id

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# far beyond what a person writes; bounds the work that a hostile text can cause
_MOST_CHARACTERS = 10_000
_TYPES = {"node_id": "str", **COLUMNS}
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_NAMES = {
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.Subscript: "a subscript",
    ast.Lambda: "a function",
    ast.NamedExpr: "an assignment",
    ast.JoinedStr: "a formatted text",
    ast.IfExp: "a choice",
    ast.List: "a list that is not after `in`",
    ast.Tuple: "a tuple that is not after `in`",
    ast.Set: "a set",
}


@checked
def query(graph: "Graph", expression: str) -> Selection:
    """The nodes for which an expression over the columns holds: "kind == 'feature' and influence > 0.01".

    It may have the columns of `graph.nodes` and `node_id`; numbers and quoted text; == != < <= > >=, also in chains;
    `in` and `not in` with a list; and, or, not; + - * / and parentheses. Text and numbers do not mix.

    Raises:
        AttrGraphError: anything else; the message quotes the part.
    """
    text = expression.strip()
    if len(text) > _MOST_CHARACTERS:
        raise AttrGraphError(f"the expression has {len(text)} characters; expected at most {_MOST_CHARACTERS}.")
    # float64 holds every number of a column, and does not overflow
    numbers = {name: "float64" for name, kind in COLUMNS.items() if kind != "str"}
    try:
        tree = ast.parse(text, mode="eval").body
        kind = _kind_of(tree, text)
        if kind != "truth":
            raise AttrGraphError(f"{_short(text)!r} is a {kind}, not a condition; compare it: layer > 3.")
        # what is divided by zero is infinite or not a number, and compares as such
        with np.errstate(all="ignore"):
            mask = graph.nodes.astype(numbers).reset_index().eval(text, engine="python")
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError) as e:
        if isinstance(e, AttrGraphError):
            raise
        why = e.msg if isinstance(e, SyntaxError) else str(e) or type(e).__name__
        way = "; write it as kind == 'feature' and layer > 3" if isinstance(e, SyntaxError) else ""
        raise AttrGraphError(f"{_short(text)!r} is not an expression ({why}){way}.") from e
    return Selection(graph, np.asarray(mask, dtype=bool))


def _kind_of(part: ast.AST, text: str) -> str:
    """Whether a part of the text is a text, a number or a truth; raises for a part that is not allowed."""
    match part:
        case ast.BoolOp(values=values):
            return _expect("truth", *values, text=text)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _expect("truth", operand, text=text)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _expect("number", operand, text=text)
        case ast.BinOp(op=op, left=left, right=right) if isinstance(op, _ARITHMETIC):
            return _expect("number", left, right, text=text)
        case ast.Compare():
            return _check_comparison(part, text)
        case ast.Name(id=name):
            if name not in _TYPES:
                hint = f"; quote a text: '{name}'." if name in KINDS else meant(name, _TYPES)
                raise AttrGraphError(f"{_short(name)!r} is no column; expected one of {', '.join(_TYPES)}{hint}")
            return "text" if _TYPES[name] == "str" else "number"
        case ast.Constant(value=str()):
            return "text"
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return "number"
    _refuse(part, text)


def _check_comparison(part: ast.Compare, text: str) -> str:
    kind = _kind_of(part.left, text)
    if not any(isinstance(each, ast.Name) for each in ast.walk(part)):
        raise AttrGraphError(f"{_quote(part, text)} compares no column; expected one at least, as in layer > 3.")
    for op, right in zip(part.ops, part.comparators, strict=True):
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple):
                raise AttrGraphError(
                    f"{_quote(right, text)} is no list; write what follows `in` as [1, 2] or ['a', 'b'], and use "
                    "graph.select(label=re.compile(...)) to find a part of a text."
                )
            for item in right.elts:
                if not isinstance(item, ast.Constant | ast.UnaryOp):
                    _refuse(item, text)
            _expect(kind, *right.elts, text=text)
        elif isinstance(op, _COMPARISONS) and kind != "truth":
            _expect(kind, right, text=text)
        else:
            _refuse(part, text)
    _check_names(part)
    return "truth"


def _check_names(part: ast.Compare) -> None:
    """Refuse kinds that no node can have, and ids that are written otherwise: they would find nothing."""
    inner = list(ast.walk(part))
    columns = {each.id for each in inner if isinstance(each, ast.Name)}
    texts = [each.value for each in inner if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    if columns == {"kind"}:
        check_kinds(texts)
    for one in texts if columns == {"node_id"} else ():
        if canonical_id(one) != one:
            raise AttrGraphError(f"node_id {one!r} is written {canonical_id(one)!r} in a graph; write it so.")


def _expect(kind: str, *parts: ast.AST, text: str) -> str:
    for part in parts:
        found = _kind_of(part, text)
        if found != kind:
            hint = "; quote a text" if kind == "text" and isinstance(part, ast.Name) else ""
            raise AttrGraphError(f"{_quote(part, text)} is a {found} where a {kind} is expected{hint}.")
    return kind


def _refuse(part: ast.AST, text: str) -> NoReturn:
    what = _NAMES.get(type(part), type(part).__name__)
    op = getattr(part, "op", None) or next(iter(getattr(part, "ops", ())), None)
    if op is not None:
        what = f"the operator {type(op).__name__}"
    raise AttrGraphError(
        f"{_quote(part, text)}: {what} is not allowed; expected columns, numbers, text, comparisons, `in` with a list, "
        "and, or, not, + - * / and parentheses."
    )


def _quote(part: ast.AST, text: str) -> str:
    return repr(_short(ast.get_source_segment(text, part) or text))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
