"""The names of label values as text inside a label file's header. Not for data-set label spaces."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CARET_LABEL = re.compile(r'<Label Key="(\d+)"[^>]*><!\[CDATA\[(.*?)\]\]></Label>')


def encode_table(labels: Mapping[str, int]) -> str:
    """Return `{"labels": {name: value}}` as one line of JSON."""
    return json.dumps({"labels": dict(labels)})


def decode_table(text: str) -> dict[str, int]:
    """Return name to value, empty if `text` is no label table.

    Understands `encode_table` and the Caret XML that TotalSegmentator writes.

    >>> decode_table(encode_table({"liver": 5}))
    {'liver': 5}
    >>> decode_table('<Label Key="1" Alpha="1"><![CDATA[spleen]]></Label>')
    {'spleen': 1}
    """
    if '<Label Key="' in text:
        return {name: int(value) for value, name in CARET_LABEL.findall(text)}
    try:
        labels = json.loads(text)["labels"]
        return {str(name): int(value) for name, value in labels.items()}
    except (ValueError, TypeError, KeyError, AttributeError):  # some other program's text
        return {}
