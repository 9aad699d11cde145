"""A YAML file of parameters, read as ROS reads it and judged before anything starts: what is wrong has a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from synctva_ros.config import NODES, TRUTH, Overrides, Value, find_param

_PARAMETERS = "ros__parameters"
#: Parameters of ROS itself, which are not ours to judge.
_OF_ROS = ("qos_overrides", "start_type_description_service")
_WILD = ("*", "**")
_TRUTH = {**TRUTH, "y": True, "n": False}


@dataclass(frozen=True)
class Given:
    """A parameter in the file: for which nodes (a pattern such as ``/**/emotion``), its name and value, and where."""

    pattern: str
    name: str
    value: Value
    line: int

    def is_for(self, namespace: str, node: str) -> bool:
        """Whether a node of this namespace gets it."""
        forms = {"*": "/[^/]+", "**": "(?:/[^/]+)*"}
        parts = [part for part in self.pattern.split("/") if part]
        expected = "".join(forms.get(part, "/" + re.escape(part)) for part in parts)
        return re.fullmatch(expected, re.sub("/+", "/", f"/{namespace}/{node}")) is not None


def read_parameter_file(path: Path, namespace: str = "") -> Overrides:
    """The parameters that the file has for our nodes in a namespace; what comes later wins.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no YAML, or names a node, parameter or value that there is not; the sentence says the line.
    """
    values: Overrides = {}
    for given in _checked(path):
        for node in NODES:
            if given.is_for(namespace, node) and given.name in _names(node):
                values.setdefault(node, {})[given.name] = given.value
    return values


def _names(node: str) -> set[str]:
    return {param.name for param in NODES[node].params()}


def _checked(path: Path) -> list[Given]:
    """What is in the file, each entry judged by itself."""
    found = []
    for given in _parse(path):
        if given.name.split(".")[0] in _OF_ROS:
            continue
        node = given.pattern.rpartition("/")[2]
        # Of all nodes those get it that have a parameter of this name.
        all_nodes = [name for name in NODES if given.name in _names(name)] or list(NODES)[:1]
        for name in all_nodes if node in _WILD else [node]:
            try:
                problem = find_param(name, given.name).problem(given.value)
            except ValueError as error:
                problem = f"no node has a parameter {given.name!r}" if node in _WILD else str(error)
                raise ValueError(f"{path}, line {given.line}: {problem}") from None
            if problem:
                raise ValueError(f"{path}, line {given.line}: parameter {given.name!r}: {problem}")
        found.append(given)
    return found


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
        node = name.rpartition("/")[2]
        if node not in (*NODES, *_WILD):
            try:
                find_param(node, "")
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
        if not isinstance(value, yaml.MappingNode):
            raise ValueError(f"{path}, line {_line(key)}: below {_PARAMETERS} there are no parameters")
        yield from _parameters(path, value, name, "")


def _parameters(path: Path, tree: yaml.MappingNode, pattern: str, prefix: str) -> Iterator[Given]:
    for key, value in tree.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _parameters(path, value, pattern, f"{name}.")
        elif isinstance(value, yaml.SequenceNode):
            if name.split(".")[0] not in _OF_ROS:
                raise ValueError(f"{path}, line {_line(key)}: parameter {name!r}: a list is not a value for it")
        else:
            yield Given(pattern, name, _value(path, name, value), _line(key))


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
