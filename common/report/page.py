"""Pages from templates: self-contained HTML, no script, no network."""

from collections.abc import Callable
from typing import Any

from common.verdict.judge import Judged

__all__ = ["measured", "number", "positions", "render"]


def render(template: str, **values: Any) -> str:
    """A template of `common/report/templates` filled with `values`; everything is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("common.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["slug"] = lambda text: text.replace(": ", "-").replace(" ", "-")
    environment.globals["positions"] = positions
    return environment.get_template(template).render(**values) + "\n"


def number(value: float | None) -> str:
    """Four significant digits; a dash for nothing."""
    if value is None:
        return "–"
    text = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return text.replace("-", "\N{MINUS SIGN}") if "e" not in text else text


def measured(claim: Judged) -> str:
    """Our number with its interval."""
    bounds = f" [{number(claim.interval[0])}, {number(claim.interval[1])}]" if claim.interval else ""
    return number(claim.ours) + bounds


def positions(claim: Judged, width: float, margin: float) -> Callable[[float], float] | None:
    """Where numbers stand in the small picture beside a claim, in pixels; None where there is nothing to show."""
    if claim.ours is None:
        return None
    shown = [0.0] if claim.kind == "order" else list(claim.seeds.values())
    shown += [claim.ours, *(claim.interval or ()), *([] if claim.published is None else [claim.published])]
    low, high = min(shown), max(shown)
    span = high - low or abs(high) * 1e-3 or 1.0
    return lambda value: round(margin + (value - low) / span * (width - 2 * margin), 1)
