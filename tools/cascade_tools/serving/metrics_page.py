"""Triton's metrics page: Prometheus' text format."""

from __future__ import annotations

import re
import urllib.request
from urllib.parse import urlsplit

from cascade_tools.errors import EnvironmentLacks, UsageError
from cascade_tools.spec import ADDRESS

TIMEOUT_S = 10.0
EXAMPLE = "http://127.0.0.1:8002/metrics"
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def page_address(url: str) -> str:
    """The address of a page, from that or from host:port of the server's metrics.

    Raises:
        UsageError: it is neither.
    """
    whole = f"http://{url}" if ADDRESS.fullmatch(url) else url
    try:
        parts = urlsplit(whole)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"{url}: is no address of a metrics page",
            f"such as 127.0.0.1:8002 or {EXAMPLE}, as `serve` shows it",
        )
    return whole if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/metrics"


def read_page(url: str) -> str:
    """The page as text.

    Raises:
        EnvironmentLacks: it cannot be read.
    """
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as page:
            text: str = page.read().decode()
            return text
    except (OSError, ValueError) as error:
        raise EnvironmentLacks(
            f"{url}: cannot be read: {error}",
            f"does the server run? Its metrics have their own port, such as {EXAMPLE} (`serve` shows it)",
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
