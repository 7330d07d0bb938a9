"""Nodes by an expression over the columns, as `pandas.DataFrame.query` takes it, but one that cannot run code.

The text is parsed and only ever looked at: no part of it is handed to Python's or pandas' evaluation, which would call
functions and read attributes and variables.
"""

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from attrgraph.errors import AttrGraphError
from attrgraph.graph.selections import Selection
from attrgraph.schema import COLUMNS

if TYPE_CHECKING:
    from attrgraph.graph.graph import Graph

# far beyond what a person writes; bounds the work that a hostile text can cause
_MOST_CHARACTERS = 10_000
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
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
    ast.Set: "a set that is not after `in`",
}


class _Value(NamedTuple):
    type: str  # "text", "number" or "truth"
    of_nodes: Any  # one for all nodes, or an array of one for each


def query(graph: "Graph", expression: str) -> Selection:
    """The nodes for which an expression over the columns holds: "kind == 'feature' and influence > 0.01".

    As `pandas.DataFrame.query` has it, but no text can run code; see `attrgraph.graph.expressions` for what it
    may have, and AttrGraphError for what it may not.
    """
    text = expression.strip()
    if len(text) > _MOST_CHARACTERS:
        raise AttrGraphError(f"the expression has {len(text)} characters; expected at most {_MOST_CHARACTERS}.")
    try:
        tree = ast.parse(text, mode="eval")
        # as in pandas, what is divided by zero is infinite or not a number, and compares as such
        with np.errstate(all="ignore"):
            found = _Reader(graph, text).read(tree.body)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as e:
        if isinstance(e, AttrGraphError):
            raise
        why = e.msg if isinstance(e, SyntaxError) else str(e) or type(e).__name__
        raise AttrGraphError(f"{_short(text)!r} is not an expression ({why}).") from e
    if found.type != "truth":
        raise AttrGraphError(f"{_short(text)!r} is a {found.type}, not a condition; compare it: layer > 3.")
    return Selection(graph, np.broadcast_to(np.asarray(found.of_nodes, dtype=bool), len(graph.nodes)).copy())


class _Reader:
    """What parts of one text stand for."""

    def __init__(self, graph: "Graph", text: str) -> None:
        self._nodes, self._text = graph.nodes, text

    def read(self, part: ast.AST) -> _Value:
        match part:
            case ast.BoolOp(op=op, values=values):
                truths = [self._expect(value, "truth") for value in values]
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                out = truths[0]
                for truth in truths[1:]:
                    out = join(out, truth)
                return _Value("truth", out)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _Value("truth", np.logical_not(self._expect(operand, "truth")))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _Value("number", -self._expect(operand, "number"))
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _ARITHMETIC:
                numbers = self._expect(left, "number"), self._expect(right, "number")
                return _Value("number", _ARITHMETIC[type(op)](*numbers))
            case ast.Compare():
                return self._compare(part)
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=str() as value):
                return _Value("text", value)
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return _Value("number", np.float64(value))
        self._refuse(part)

    def _compare(self, part: ast.Compare) -> _Value:
        out: Any = True
        left_part = part.left
        for op, right_part in zip(part.ops, part.comparators, strict=True):
            left = self.read(left_part)
            if isinstance(op, ast.In | ast.NotIn):
                items = self._items(right_part, left.type)
                holds = np.zeros(np.shape(left.of_nodes), dtype=bool)
                for item in items:
                    holds = holds | np.asarray(left.of_nodes == item)
                holds = ~holds if isinstance(op, ast.NotIn) else holds
            elif type(op) in _COMPARISONS and left.type != "truth":
                holds = _COMPARISONS[type(op)](left.of_nodes, self._expect(right_part, left.type))
            else:
                self._refuse(part)
            out, left_part = np.logical_and(out, holds), right_part
        return _Value("truth", out)

    def _items(self, part: ast.AST, kind: str) -> list[Any]:
        """What stands after `in`."""
        if not isinstance(part, ast.List | ast.Tuple | ast.Set):
            raise AttrGraphError(
                f"{self._quote(part)} is no list; write what follows `in` as [1, 2] or ['a', 'b'], and use "
                "graph.select(label=re.compile(...)) to find a part of a text."
            )
        literals = (ast.Constant, ast.UnaryOp)
        for item in part.elts:
            if not isinstance(item, literals):
                self._refuse(item)
        return [self._expect(item, kind) for item in part.elts]

    def _column(self, name: str) -> _Value:
        if name == "node_id":
            return _Value("text", self._nodes.index.to_numpy(dtype=object))
        if name not in COLUMNS:
            raise AttrGraphError(f"{_short(name)!r} is no column; expected one of node_id, {', '.join(COLUMNS)}.")
        if COLUMNS[name] == "str":
            return _Value("text", self._nodes[name].to_numpy(dtype=object))
        # float64 holds every number of a column, and does not overflow
        return _Value("number", self._nodes[name].to_numpy(dtype=np.float64))

    def _expect(self, part: ast.AST, kind: str) -> Any:
        value = self.read(part)
        if value.type != kind:
            raise AttrGraphError(f"{self._quote(part)} is a {value.type} where a {kind} is expected.")
        return value.of_nodes

    def _refuse(self, part: ast.AST) -> NoReturn:
        what = _NAMES.get(type(part), type(part).__name__)
        op = getattr(part, "op", None) or next(iter(getattr(part, "ops", ())), None)
        if op is not None:
            what = f"the operator {type(op).__name__}"
        raise AttrGraphError(
            f"{self._quote(part)}: {what} is not allowed; expected columns, numbers, text, comparisons, `in` with a "
            "list, and, or, not, + - * / and parentheses."
        )

    def _quote(self, part: ast.AST) -> str:
        return repr(_short(ast.get_source_segment(self._text, part) or self._text))


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
