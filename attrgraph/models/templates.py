"""Chat templates as programs: what they read, and whether any of their operations may take much time or memory."""

import re
from functools import lru_cache
from typing import Any

from jinja2 import Environment, nodes

# What makes nothing that is larger than what it is given. A template of nothing else is bounded by its loops.
_PARTS = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.Name, nodes.NSRef),
    *(nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or),
    *(nodes.Not, nodes.Neg, nodes.Test, nodes.Filter, nodes.Call, nodes.Keyword, nodes.CondExpr, nodes.Add, nodes.Sub),
    *(nodes.Concat, nodes.Mod, nodes.List, nodes.Tuple, nodes.Break, nodes.Continue),
)
_FILTERS = frozenset(
    "trim tojson length count string upper lower first last default d list reverse items selectattr rejectattr "
    "reject join".split()
)
_METHODS = frozenset("strip lstrip rstrip split startswith endswith get items keys values upper lower title".split())
_FUNCTIONS = frozenset(("raise_exception", "strftime_now", "namespace"))
_MOST = 100  # to indent by, or letters between what is joined


@lru_cache(maxsize=8)
def parsed(source: str) -> nodes.Template:
    """A template's program; raises whatever is wrong with it."""
    # tags of transformers, which name nothing
    source = re.sub(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}", "", source)
    return Environment(extensions=["jinja2.ext.loopcontrols"]).parse(source)


@lru_cache(maxsize=8)
def is_plain(source: str) -> bool:
    """Whether a template is of operations that take no more than what they are given."""
    try:
        return all(map(_is_plain, _all(parsed(source)))) and not _formats(parsed(source))
    except Exception:  # what is wrong with a template is said when it is filled in
        return False


def _all(node: nodes.Node) -> list[nodes.Node]:
    return [node, *node.find_all(nodes.Node)]


def _is_plain(node: nodes.Node) -> bool:
    match node:
        case nodes.Filter(name="join"):
            return all(isinstance(each, nodes.Const) and len(str(each.value)) <= _MOST for each in node.args)
        case nodes.Filter():
            return node.name in _FILTERS
        case nodes.Call(node=nodes.Getattr(attr=name)):
            return name in _METHODS
        case nodes.Call(node=called):
            return isinstance(called, nodes.Name) and called.name in _FUNCTIONS
        case nodes.Name(ctx="store", name=name) | nodes.NSRef(attr=name) | nodes.Keyword(key=name):
            return name not in _METHODS | _FUNCTIONS  # which would be something else then
        case nodes.Const(value=int() as value):
            return abs(value) <= _MOST
        case nodes.Assign(node=kept) | nodes.For(iter=kept):
            return not any(map(_grows, _all(kept)))  # what is kept may be put together again and again
    return isinstance(node, _PARTS)


def _grows(node: nodes.Node) -> bool:
    """Whether this puts several things together, neither of which stands in the template, or letters between others."""
    match node:
        case nodes.Add():
            return not any(isinstance(side, nodes.Const) for side in (node.left, node.right))
        case nodes.List() | nodes.Tuple():
            return not all(isinstance(each, nodes.Const) for each in node.items)
        case nodes.Filter(name="tojson" | "string" | "join") | nodes.Concat():
            return True
    return False


def _formats(template: nodes.Template) -> bool:
    """Whether `%` may be what fills in a text."""
    constants: list[Any] = [each.value for each in template.find_all(nodes.Const)]
    is_text = any(isinstance(value, str) and "%" in value for value in constants)
    is_counted = all(isinstance(each.right, nodes.Const) for each in template.find_all(nodes.Mod))
    return (is_text and next(template.find_all(nodes.Mod), None) is not None) or not is_counted
