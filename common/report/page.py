"""Pages from templates: self-contained HTML, no script, no network."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from common.room.claims import Class
from common.verdict.judge import Judged, Verdict, tone

__all__ = ["CLASSES", "claims_csv", "claims_markdown", "measured", "number", "positions", "render"]

CLASSES: dict[Class, str] = {
    "printed": "Printed in the paper", "replication": "Published by others",
    "reference": "Measured with the authors' code", "direction": "Said by the paper in words",
    "beyond": "Beyond the paper", "check": "Demanded by theory",
}  # fmt: skip
"""Classes of claims in words, in the order of tables."""


def render(template: str, **values: Any) -> str:
    """A template of `common/report/templates` filled with `values`; everything is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("common.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["tone"] = tone
    environment.globals |= {"positions": positions, "classes": CLASSES, "verdicts": get_args(Verdict)}
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


def claims_csv(judged: Sequence[Judged]) -> str:
    """Judged claims as CSV, a line each."""
    import pandas as pd

    names = ["id", "class", "statement", "headline", "kind", "published", "published_error", "source", "provenance",
             "ours", "low", "high", "unit", "difference", "n", "seeds", "scale", "verdict", "reason"]  # fmt: skip
    rows = []
    for claim in judged:
        low, high = claim.interval or (None, None)
        seeds = " ".join(f"{seed}:{value:.6g}" for seed, value in claim.seeds.items())
        rows.append({**claim.__dict__, "class": claim.origin, "low": low, "high": high, "seeds": seeds})
    return str(pd.DataFrame(rows, columns=names, dtype=object).to_csv(index=False, lineterminator="\n"))


def claims_markdown(judged: Sequence[Judged]) -> Iterator[str]:
    """Judged claims as a Markdown table."""
    printed = not any(claim.published is not None and claim.origin in ("reference", "beyond") for claim in judged)
    yield f"| claim | | {'published' if printed else 'compared with'} | ours [95 % interval] | seeds | verdict |"
    yield "|---|---|---:|---:|---|---|"
    for claim in judged:
        statement, ours = claim.statement.replace("|", "\\|"), f"{measured(claim)} {claim.unit}".strip()
        error = f" ± {number(claim.published_error)}" if claim.published_error is not None else ""
        seeds = " ".join(map(number, claim.seeds.values()))
        seeds += f" ({claim.n})" if not claim.n.endswith(("seed", "seeds")) and seeds else ""
        cells = [f"`{claim.id}`", statement, number(claim.published) + error, ours, seeds, claim.verdict]
        yield f"| {' | '.join(cells)} |"
