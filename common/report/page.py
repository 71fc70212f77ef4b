"""Pages from templates: self-contained HTML, no script, no network."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.verdict.claims import Judged

__all__ = ["render"]

WIDTH, HEIGHT, MARGIN = 168, 30, 9


def render(template: str, **values: Any) -> str:
    """A template of `common/report/templates` filled with `values`; everything is escaped."""
    environment = Environment(
        loader=PackageLoader("common.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["slug"] = lambda text: text.replace(": ", "-").replace(" ", "-")
    environment.globals["strip"] = strip
    return environment.get_template(template).render(**values) + "\n"


def number(value: float | None) -> str:
    """Four significant digits; a dash for nothing."""
    if value is None:
        return "–"
    text = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def strip(claim: Judged) -> Mapping[str, Any] | None:
    """Geometry of the small picture beside a claim: seeds as dots, interval as a bar, published as a diamond.

    Returns:
        Positions in pixels, or None where there is nothing to show.
    """
    if claim.ours is None:
        return None
    own = list(claim.seeds.values()) if claim.kind != "order" else []
    marks = [claim.ours, *own, *(claim.interval or ())]
    if claim.published is not None:
        marks.append(claim.published)
    if claim.kind == "order":
        marks.append(0.0)
    low, high = min(marks), max(marks)
    span = high - low or abs(high) * 1e-3 or 1.0

    def x(value: float) -> float:
        return round(MARGIN + (value - low) / span * (WIDTH - 2 * MARGIN), 1)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "middle": HEIGHT / 2,
        "seeds": [x(value) for value in own],
        "mean": x(claim.ours),
        "interval": [x(value) for value in claim.interval] if claim.interval else None,
        "published": x(claim.published) if claim.published is not None else None,
        "zero": x(0.0) if claim.kind == "order" else None,
    }
