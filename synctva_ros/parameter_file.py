"""A YAML file of parameters, read as ROS reads it and judged before anything starts: what is wrong has a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from synctva_ros.config import ANY_NODE, NODES, TRUTH, Overrides, Value, find_param

_PARAMETERS = "ros__parameters"
#: Parameters of ROS itself, which are not ours to judge.
_OF_ROS = ("qos_overrides", "start_type_description_service")
_WILD = ("*", "**")
_TRUTH = {**TRUTH, "y": True, "n": False}
#: So many names of others are told.
_TOLD = 6


@dataclass(frozen=True)
class Given:
    """A parameter in the file: for which nodes (a pattern such as ``/**/emotion``), its name and value, and where.

    A list has no value here, as no node of ours takes one.
    """

    pattern: str
    pattern_line: int
    name: str
    value: Value | None
    line: int

    @property
    def node(self) -> str:
        """The last part of the pattern."""
        return self.pattern.rpartition("/")[2]

    def is_for(self, namespace: str, node: str) -> bool:
        """Whether a node of this namespace gets it."""
        forms = {"*": "/[^/]+", "**": "(?:/[^/]+)*"}
        parts = [part for part in self.pattern.split("/") if part]
        expected = "".join(forms.get(part, "/" + re.escape(part)) for part in parts)
        return re.fullmatch(expected, re.sub("/+", "/", f"/{namespace}/{node}")) is not None


def read_parameter_file(
    path: Path,
    namespace: str = "",
    nodes: Iterable[str] = NODES,
    tell: Callable[[str], object] = lambda sentence: None,
) -> Overrides:
    """The parameters that the file has for our nodes in a namespace; what comes later wins.

    A robot may have one file for all that runs on it: what is for other nodes is left alone, as long as its name is not
    nearly one of ours.

    Args:
        path: of the file.
        namespace: of our nodes.
        nodes: those of ours that are started.
        tell: called with one sentence about what is left alone, if anything is.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML, or names a node, parameter or value that there is not; the sentence says the line.
    """
    nodes = list(nodes)
    values: Overrides = {}
    others: dict[str, list[str]] = {}
    for given in _parse(path):
        if given.name.split(".")[0] in _OF_ROS:
            continue
        ours = [node for node in NODES if given.is_for(namespace, node) and _is_its(given, node)]
        for node in nodes:
            if node not in ours:
                continue
            if problem := _problem(given, node):
                raise ValueError(f"{path}, line {given.line}: {problem}")
            if given.value is not None and given.name in _names(node):
                values.setdefault(node, {})[given.name] = given.value
        if not ours:
            others.setdefault(given.pattern, []).append(given.name)
            if near := _mistyped_node(given, namespace, nodes):
                raise ValueError(
                    f"{path}, line {given.pattern_line}: there is no node {given.node!r}; did you mean {near!r}?"
                )
            if near := _mistyped_for_all(given, namespace, nodes):
                raise ValueError(
                    f"{path}, line {given.line}: no node has a parameter {given.name!r}; did you mean {near!r}?"
                )
    if others:
        parts = [f"{name} ({', '.join(names)})" if name[-1] == "*" else name for name, names in others.items()]
        more = f" and {len(parts) - _TOLD} more" if len(parts) > _TOLD else ""
        tell(f"{path}: what is not for nodes of this graph is left alone: {', '.join(parts[:_TOLD])}{more}")
    return values


def mistyped(name: str, names: Iterable[str], alike: float = 0.85) -> str:
    """The one of ``names`` that was probably meant by ``name``; empty when that rather is the name of something else.

    Args:
        name: as it was written.
        names: those that there are.
        alike: share of characters that must be the same, 0 to 1 (``difflib``). Parameters of others are often like
            ours (``frame_rate``, ``face_rate``: 0.84).
    """
    return next(iter(difflib.get_close_matches(name, list(names), 1, alike)), "")


def _names(node: str) -> set[str]:
    return {param.name for param in NODES[node].params()}


def _is_its(given: Given, node: str) -> bool:
    """Whether a parameter is one of a node that it is for; by the node's own name it is in any case."""
    return given.node == node or given.name in _names(node) | {param.name for param in ANY_NODE}


def _problem(given: Given, node: str) -> str:
    """What is wrong with a parameter of a node; empty when nothing is."""
    try:
        param = find_param(node, given.name)
    except ValueError as error:
        return str(error)
    problem = "a list is not a value for it" if given.value is None else param.problem(given.value)
    return problem and f"parameter {given.name!r}: {problem}"


def _mistyped_node(given: Given, namespace: str, nodes: list[str]) -> str:
    # camera1 and left_camera are other nodes on purpose. 0.8: in a word of five letters two may be swapped.
    is_one = given.node.isalpha() and given.is_for(namespace, given.node)
    return mistyped(given.node, nodes, 0.8) if is_one else ""


def _mistyped_for_all(given: Given, namespace: str, nodes: list[str]) -> str:
    if given.value is None or any(given.name in _names(node) for node in NODES):  # of one that is not started
        return ""
    return mistyped(given.name, {name for node in nodes if given.is_for(namespace, node) for name in _names(node)})


def _parse(path: Path) -> list[Given]:
    try:
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(
                    f"{path}, line {_line(event)}: ROS does not know aliases (*{event.anchor}); write it out"
                )
        root = yaml.compose(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: this is no text in UTF-8 ({error.reason})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ValueError(f"{path}, line {line}: this is no YAML ({error.problem or error.context})") from error
    except yaml.YAMLError as error:  # a control character, say
        raise ValueError(f"{path}: this is no YAML ({' '.join(str(error).split())})") from error
    if root is None:
        return []
    return list(_nodes(path, root, "", 1))


def _nodes(path: Path, tree: yaml.Node, name: str, line: int) -> Iterator[Given]:
    """Go down the namespaces to the nodes; ``line`` is that of the name."""
    if not isinstance(tree, yaml.MappingNode):
        what = f"{name!r} needs" if name else "the file needs"
        raise ValueError(
            f"{path}, line {line}: {what} a node's name, below it {_PARAMETERS}, below that its parameters"
        )
    for key, value in tree.value:
        if key.value != _PARAMETERS:
            yield from _nodes(path, value, f"{name}/{key.value}".replace("//", "/"), _line(key))
            continue
        if not isinstance(value, yaml.MappingNode):
            raise ValueError(f"{path}, line {_line(key)}: below {_PARAMETERS} there are no parameters")
        for parameter, its_line, its_value in _parameters(path, value, ""):
            yield Given(name, line, parameter, its_value, its_line)


def _parameters(path: Path, tree: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, int, Value | None]]:
    """Name, line and value of each parameter below a node."""
    for key, value in tree.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _parameters(path, value, f"{name}.")
        elif isinstance(value, yaml.SequenceNode):
            kinds = {
                type(_value(path, name, item)) if isinstance(item, yaml.ScalarNode) else item.tag
                for item in value.value
            }
            if len(kinds) > 1 or yaml.SequenceNode in map(type, value.value):
                raise ValueError(
                    f"{path}, line {_line(key)}: parameter {name!r}: a list holds values of one type, no lists"
                )
            yield name, _line(key), None
        else:
            yield name, _line(key), _value(path, name, value)


def _value(path: Path, name: str, node: yaml.ScalarNode) -> Value:
    """A value by the rules of rcl, which are not quite PyYAML's."""
    text: str = node.value
    usual = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    if node.style is not None or node.tag != usual:  # in quotes, or with a tag such as !!str
        return text
    if not text:
        raise ValueError(f"{path}, line {_line(node)}: parameter {name!r} has no value; write '' for an empty one")
    if text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if re.fullmatch(r"[-+]?(0x[0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", text):
        digits = text.lstrip("+-")
        number = int(digits, 16 if digits[:2] == "0x" else 8 if digits[0] == "0" else 10)
        return -number if text[0] == "-" else number
    try:
        return text if "_" in text else float(text.replace(".nan", "nan").replace(".inf", "inf"))
    except ValueError:
        return text


def _line(item: yaml.Node | yaml.Event) -> int:
    return (item.start_mark.line if item.start_mark else 0) + 1
