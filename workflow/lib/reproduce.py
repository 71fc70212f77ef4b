"""`python workflow/lib/reproduce.py <paper>`: what `dvc repro` runs.

DVC hashes what a stage depends on after its command. A file that is edited while a build runs would so be recorded as
what the results were made of: here it is compared before and after.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def content(paper: str) -> dict[str, str]:
    """File to SHA-256, of all that the stage of a paper depends on."""
    folders = [ROOT / name for name in (f"papers/{paper}", "common", "workflow")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files = [path for path in files if "tests" not in path.parts and path.name != "README.md"]  # as .dvcignore says
    files += [ROOT / "Snakefile", ROOT / "config" / "config.yaml"]
    return {path.relative_to(ROOT).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(paper: str) -> int:
    """Build a paper's results; returns the exit status."""
    before = content(paper)
    status = subprocess.run(["snakemake", "--nolock", f"results/{paper}"], cwd=ROOT, check=False).returncode
    after = content(paper)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed and not status:
        print(f"error: {', '.join(changed[:3])} changed while results/{paper} was built: build again", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
