"""Write `docs/speed.md`, and the marked blocks of the rooms' READMEs, from `docs/speed/<paper>.json`.

python benchmarks/publish.py
"""

import json
import re

from measure import ROOT, markdown, recorded, reference

from common import atomic
from common.errors import RefigureError

BLOCK = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- end of speed -->)", re.DOTALL)
HEAD = """# Speed

Written by `make benchmark` from `docs/speed/*.json`; the official numbers are from `papers/*/reference/speed.yaml`.
Numbers are CPU milliseconds a unit of work, medians. Ours have one thread on one pinned core; the official programs had
the threads that speed.yaml names, and CPU time adds those up. A ratio says how many times as fast ours is, core for
core, where both ran in one run. Otherwise there is none: machine and load differ. The audit below each table ran both
side by side; its output was not kept. The last column is the arithmetic of the matrix products as a share of what the
core reaches in one large float32 product of XLA's; a record without that product shows no share.
"""


def written(paper: str) -> str:
    """The block of one paper, from its record if there is one.

    Raises:
        RefigureError: speed.yaml is not as it has to be.
    """
    path = ROOT / "docs" / "speed" / f"{paper}.json"
    if path.is_file():
        return "\n".join(markdown(json.loads(path.read_text(encoding="utf-8")))) + "\n"
    return "\n".join(f"- {line}" for line in ("No run of this benchmark is kept.", *recorded(reference(paper)))) + "\n"


def papers() -> list[str]:
    """Those that have a benchmark."""
    return sorted(path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py"))


def page() -> str:
    """The text of docs/speed.md."""
    return "\n".join([HEAD, *(f"## {paper}\n\n{written(paper)}" for paper in papers())])


def with_speed(text: str, block: str, where: str) -> str:
    """A README with what stands between `<!-- speed -->` and `<!-- end of speed -->` written anew.

    Raises:
        RefigureError: There is no such block, or more than one.
    """
    if len(BLOCK.findall(text)) != 1:
        raise RefigureError(f"{where}: one block `<!-- speed -->` ... `<!-- end of speed -->` is needed")
    return BLOCK.sub(lambda _: block, text)


def main() -> None:
    """Write them all."""
    atomic.write_text(ROOT / "docs" / "speed.md", page())
    for paper in papers():
        readme = ROOT / "papers" / paper / "README.md"
        text = readme.read_text(encoding="utf-8")
        atomic.write_text(readme, with_speed(text, written(paper), str(readme.relative_to(ROOT))))


if __name__ == "__main__":
    main()
