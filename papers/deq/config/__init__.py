"""The settings of the experiments, a file each; `paper.yaml` says which variant and scale sets what."""

from papers.deq.config.convergence import Convergence
from papers.deq.config.copy_memory import CopyMemory
from papers.deq.config.images import Images
from papers.deq.config.language import Language
from papers.deq.config.memory import Memory
from papers.deq.config.regression import Regression
from papers.deq.config.solving import SolverName, Solving

__all__ = ["Convergence", "CopyMemory", "Images", "Language", "Memory", "Regression", "SolverName", "Solving"]
