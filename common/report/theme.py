"""One look for all figures: seaborn theme, colour-blind safe palette, and files that are the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from common import atomic

__all__ = ["PALETTE", "PUBLISHED", "Drawing", "apply", "save"]

PALETTE = sns.color_palette("colorblind")
PUBLISHED = {"color": "0.15", "marker": "D", "markerfacecolor": "none", "linestyle": "none", "markersize": 6}
"""How a published value is drawn: an open diamond."""
NAMED = 3
"""Keys of runs that stand below a picture."""


@dataclass(frozen=True)
class Drawing:
    """What a paper's figure function returns."""

    figure: Figure
    """The picture."""
    table: pd.DataFrame
    """The numbers behind it, one row a mark."""
    runs: Sequence[str]
    """The runs it was drawn from."""
    notes: Sequence[str] = field(default_factory=tuple)
    """Sentences for the caption that come from the numbers."""
    listed: pd.DataFrame | None = None
    """A table that the page shows below the picture."""

    @property
    def keys(self) -> list[str]:
        """The keys of its runs."""
        return sorted({run.rpartition("-")[2] for run in self.runs})


def apply() -> None:
    """Set the theme; called once before any figure is drawn."""
    options = {
        "figure.dpi": 100, "savefig.dpi": 200, "font.family": "DejaVu Sans", "pdf.fonttype": 42,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    }  # fmt: skip
    sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=options)


def save(drawing: Drawing, stem: Path) -> None:
    """Write `<stem>.png`, `.pdf` and `.csv`; the same drawing gives the same bytes.

    The first keys of its runs stand in small print below the picture; the page has them all.
    """
    keys = drawing.keys
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    small: dict[str, Any] = {"fontsize": 4.5, "color": "0.55", "family": "DejaVu Sans Mono"}
    drawing.figure.text(0.995, -0.005, f"runs {' '.join(keys[:NAMED])}{more}", ha="right", va="top", **small)
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Creator": None})):
        buffer = BytesIO()
        drawing.figure.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=0.06, metadata=metadata)
        content = _smaller(buffer) if kind == "png" else buffer.getvalue()
        atomic.write_bytes(stem.with_suffix(f".{kind}"), content)
    plt.close(drawing.figure)
    text = StringIO()
    drawing.table.to_csv(text, index=False, float_format="%.6g", lineterminator="\n")
    atomic.write_text(stem.with_suffix(".csv"), text.getvalue())


def _smaller(picture: BytesIO) -> bytes:
    """A PNG with a palette of 256 colours, as many as a colour map has: half to a third of the bytes."""
    smaller = BytesIO()
    Image.open(picture).convert("RGB").quantize(256).save(smaller, "png", optimize=True)
    return smaller.getvalue()
