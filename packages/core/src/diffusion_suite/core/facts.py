"""What ``info`` found, as a table for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values on standard output, and the card of weights, where there is one, under them.

    Args:
        facts: values by name; ``card`` is text.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if name != "card":
            table.add_row(name, f"{value:,}" if isinstance(value, int) and value > 9999 else str(value))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)
    if facts.get("card"):
        print(f"\n{facts['card']}")
