"""The table of metrics is what the READMEs print, and what the trainer computes."""

import re
from pathlib import Path

from sagasr.metrics.score import COMPUTE
from sagasr.metrics.table import METRICS

ROOT = Path(__file__).parents[3]


def test_every_metric_of_the_table_is_computed() -> None:
    assert [*COMPUTE] == [*METRICS]


def test_the_readme_names_each_metric_with_its_unit_and_direction() -> None:
    texts = [path.read_text(encoding="utf-8") for folder in (ROOT, ROOT / "sagasr") for path in folder.glob("*.md")]
    rows = [
        row for text in texts for row in re.findall(r"^\| (`\w+`[^|]*) \| ([^|]*) \| (lower|higher) \|", text, re.M)
    ]
    printed = {name: (unit, better) for names, unit, better in rows for name in re.findall(r"`(\w+)`", names)}
    for name, metric in METRICS.items():
        assert printed[name] == (metric.unit or "\N{EN DASH}", metric.better)
