"""Spoken digits as log-mel frames: patches of some frames, of which time runs along (stand-in for LibriSpeech)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common import data
from common.train.recorder import Outcome, Recorder
from common.train.torch import torch_device
from papers.clapp.config import Speech
from papers.clapp.learning import learn
from papers.clapp.stimuli import Probing, Stimulus

__all__ = ["log_mel", "mel_filters", "train"]

RATE = 8000
"""Samples a second."""
HOP, WINDOW, LENGTH = 80, 200, 256
"""Samples from a frame to the next (10 ms), of a frame (25 ms), and of its Fourier transform."""
FLOOR = 1e-4
"""Added to the power in a band, relative to full scale, before the logarithm."""


def mel_filters(bands: int) -> Tensor:
    """Triangles (bands, LENGTH / 2 + 1) whose corners are even on the mel scale, from 0 to RATE / 2."""
    most = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, most, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, RATE / 2, LENGTH // 2 + 1)
    left, middle, right = (corners[start : start + bands, None] for start in range(3))
    rising, falling = (frequencies - left) / (middle - left), (right - frequencies) / (right - middle)
    return torch.from_numpy(np.clip(np.minimum(rising, falling), 0, None)).float()


def log_mel(samples: Tensor, frames: int, bands: int) -> Tensor:
    """Logarithm of the power in mel bands, (frames, bands), of a recording (n,); cut, or followed by silence."""
    needed = WINDOW + HOP * (frames - 1)
    padded = torch.nn.functional.pad(samples[:needed], (0, max(0, needed - len(samples))))
    windows = padded.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    power = torch.fft.rfft(windows, LENGTH).abs().square()
    return (power @ mel_filters(bands).T + FLOOR).log()


def _load(config: Speech, split: str, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """Recordings (n, 1, frames, bands), and digit and speaker of each."""
    arrays = data.load("fsdd", split)
    samples, offsets = torch.from_numpy(np.array(arrays["samples"])).float() / 2**15, arrays["offsets"]
    spectra = [
        log_mel(samples[start:end], config.frames, config.bands)
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    labels = {name: torch.from_numpy(np.array(arrays[name])).long().to(device) for name in ("digit", "speaker")}
    return torch.stack(spectra).unsqueeze(1).to(device), {"class": labels["digit"], "speaker": labels["speaker"]}


def speech(config: Speech, device: torch.device) -> Stimulus:
    """Spoken digits as a stimulus; bands are normalised by mean and deviation of all training frames."""
    spectra, labels = _load(config, "train", device)
    tested, test_labels = _load(config, "test", device)
    mean, deviation = spectra.mean(), spectra.std()
    spectra, tested = (spectra - mean) / deviation, (tested - mean) / deviation
    probing = Probing(lambda _: spectra, labels, tested, test_labels)
    shape = (1, config.frames, config.bands)
    return Stimulus(shape, len(spectra), lambda rows, _: spectra[rows], labels["class"], probing)


def train(config: Speech, seeds: Sequence[int], run: Recorder) -> Outcome:
    """Train on spoken digits without labels, and probe digit and speaker."""
    return learn(config, seeds, speech(config, torch_device()), run)
