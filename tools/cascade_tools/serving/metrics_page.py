"""Triton's metrics page: Prometheus' text format."""

from __future__ import annotations

import re
import urllib.request

from cascade_tools.errors import CascadeError

TIMEOUT_S = 10.0
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def read_page(url: str) -> str:
    """The page as text.

    Raises:
        CascadeError: it cannot be read.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as page:
            text: str = page.read().decode()
            return text
    except (OSError, ValueError) as error:
        raise CascadeError(
            f"{url}: cannot be read: {error}", "give the address of Triton's metrics as --metrics-url"
        ) from None


def samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of every sample of one metric."""
    line = re.compile(
        rf'^{re.escape(name)}(?:\{{((?:\w+="(?:[^"\\]|\\.)*",?)*)\}})? (\S+)(?: -?\d+)?$', re.MULTILINE
    )
    return [
        ({key: _plain(value) for key, value in LABEL.findall(labels)}, float(value))
        for labels, value in line.findall(text)
    ]


def _plain(value: str) -> str:
    return re.sub(r'\\[\\"n]', lambda match: ESCAPED[match.group()], value)
