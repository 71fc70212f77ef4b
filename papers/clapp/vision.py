"""Still images: an encoder is trained without labels, then all its layers are probed (sections 4.1 and 4.2)."""

from collections.abc import Sequence

from common.train.recorder import Outcome, Recorder
from common.train.torch import torch_device
from papers.clapp.config import Images
from papers.clapp.learning import learn
from papers.clapp.stimuli import images

__all__ = ["train"]


def train(config: Images, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train on images, without labels but for supervised learning, and probe."""
    return learn(config, seeds, images(config, torch_device()), run)
