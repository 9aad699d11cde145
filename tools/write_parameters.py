"""Writes what stands in ``synctva_ros/config.py`` into ``config/perception.yaml`` and the README's tables.

    python tools/write_parameters.py

Run it after a change of a parameter; ``test/test_parameters.py`` says when it was forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from yaml import safe_load

from synctva_ros.config import LAUNCH_ARGUMENTS, NODES, Param, Value

ROOT = Path(__file__).parents[1]
YAML = ROOT / "config" / "perception.yaml"
README = ROOT / "README.md"
WIDTH = 120
HEAD = """\
# Parameters of all nodes, with their defaults. Copy this file, change what you need and pass it with
# `config:=FILE` (ros2 launch) or `--config FILE` (synctva run). Those marked (live) can also be set while the node
# works; the others are read when it is configured. /** stands for any namespace.
# Made from synctva_ros/config.py by tools/write_parameters.py.
"""


def literal(value: Value) -> str:
    """A value as YAML writes it; in quotes where it would be taken for something else."""
    is_plain = isinstance(value, str) and value.isidentifier() and safe_load(value) == value
    return str(value) if is_plain else json.dumps(value)


def yaml() -> str:
    """The configuration file."""
    lines = [HEAD]
    for node, config in NODES.items():
        lines += [f"/**/{node}:", "  ros__parameters:"]
        for param in config.params():
            notes = [f"[{param.unit}]"] * bool(param.unit) + ["(live)"] * param.live
            lines.append("    # " + " ".join([param.meaning, *notes]))
            lines.append(f"    {param.name}: {literal(param.default)}")
        lines.append("")
    return "\n".join(lines)


def allowed(param: Param) -> str:
    """What values a parameter may have."""
    if param.choices:
        return ", ".join(f"`{choice}`" for choice in param.choices)
    return "" if param.low is None or param.high is None else f"{param.low:g} to {param.high:g}"


def parameters(node: str) -> Iterator[str]:
    """The table of a node's parameters."""
    yield "| parameter | default | allowed | live | meaning |"
    yield "|---|---|---|---|---|"
    for param in NODES[node].params():
        unit = f" [{param.unit}]" if param.unit else ""
        yield (
            f"| `{param.name}` | `{literal(param.default)}` | {allowed(param)} | {'yes' if param.live else ''} | "
            f"{param.meaning}{unit} |"
        )


def arguments() -> Iterator[str]:
    """The table of the launch file's arguments."""
    yield "| argument | default | meaning |"
    yield "|---|---|---|"
    for argument in LAUNCH_ARGUMENTS:
        yield f"| `{argument.name}` | {f'`{argument.default}`' if argument.default else 'empty'} | {argument.meaning} |"


def readme(text: str) -> str:
    """The README with its tables made anew; they stand between two comments that say of what they are.

    Raises:
        ValueError: a table has no place.
    """
    tables = {f"parameters of {node}": parameters(node) for node in NODES} | {"launch arguments": arguments()}
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        if text.count(begin) != 1:
            raise ValueError(f"README.md: there must be one line {begin.strip()}")
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md: the table after {begin.strip()} has no {end}")
        text = before + begin + "\n".join(lines) + "\n" + end + after
    return text


if __name__ == "__main__":
    YAML.write_text(yaml(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
