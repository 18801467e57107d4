"""Reading YAML so that every mistake in it is told in one line, a key that stands twice included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from deeplab2_lite.errors import UserError


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which plain YAML drops the first without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def parse_yaml(text: str) -> Any:
    """Parses YAML.

    Args:
        text: The YAML.

    Returns:
        Its content.

    Raises:
        UserError: It is no YAML, or a key stands twice in a mapping; the message says no file.
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"not valid YAML ({' '.join(said.split())}{place})") from None
    except RecursionError:
        raise UserError("not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError comes of what looks like a date and is none.
        raise UserError(f"not valid YAML ({' '.join(str(error).split())})") from None


def read_yaml(path: str | Path) -> Any:
    """Reads a YAML file.

    Args:
        path: The file, in UTF-8.

    Returns:
        Its content.

    Raises:
        UserError: It cannot be read, or as `parse_yaml`; the message names it.
    """
    path = Path(path)
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML ({error})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
