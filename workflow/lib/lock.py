"""Rewrites the requirement locks: `make lock`. Needs uv and a package index; installs nothing.

requirements.lock        every package but PyTorch, direct and indirect, with the hashes of all its files
requirements-torch.lock  PyTorch: a version and no hash, since its build differs by machine
requirements-cuda.lock   what the CUDA builds of PyTorch and JAX need on top, exact versions
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = {
    "torch": "2.13.0", "jax": "0.10.2", "snakemake": "9.27.1", "dvc": "3.67.1", "numpy": "2.4.6",
    "matplotlib": "3.11.2", "seaborn": "0.13.2", "mujoco": "4.0.0", "envpool": "1.2.5", "pybullet": "3.2.7",
}  # fmt: skip
"""Versions that were measured; everything else is the newest that fits."""
CUDA = re.compile(r"^(torch|triton|nvidia-|cuda-|jax-cuda)")


def compiled(*arguments: str, source: str = "") -> list[str]:
    """Lines of a lock, a package with its continuation lines and comments as one text."""
    pins = "\n".join(f"{name}=={version}" for name, version in PINS.items())
    (ROOT / "build").mkdir(exist_ok=True)
    constraints = ROOT / "build" / "pins.txt"
    constraints.write_text(pins + "\n")
    found = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11", "--quiet",
         "--no-header", "--no-annotate", "-c", str(constraints), *arguments],
        input=source, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if found.returncode:
        sys.exit(found.stderr.strip())
    return re.findall(r"(?m)^[a-zA-Z0-9].*(?:\n\s+.*)*", found.stdout)


def write(name: str, purpose: str, entries: list[str]) -> None:
    """Write one lock."""
    (ROOT / name).write_text(f"# {purpose}\n# Written by `make lock`.\n" + "\n".join(entries) + "\n")


def main() -> None:
    """Rewrite all three."""
    everything = compiled("--generate-hashes", "--all-extras", "pyproject.toml")
    gpu = compiled("-", source=f"torch=={PINS['torch']}\njax[cuda13]=={PINS['jax']}\n")
    write("requirements.lock", "Every package but PyTorch, with hashes.", [e for e in everything if not CUDA.match(e)])
    write("requirements-torch.lock", "PyTorch; its build differs by machine.", [f"torch=={PINS['torch']}"])
    write("requirements-cuda.lock", "CUDA builds: PyTorch's and JAX's parts.", [e for e in gpu if CUDA.match(e)])


if __name__ == "__main__":
    main()
