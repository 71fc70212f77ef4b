"""Speed of CLAPP: training steps at the published size, by the rule and by the loss, and at scale cpu.

The published network on grey images of 64 x 64, four a step as the reference was measured, and more; a step holds
stimulus, draws, all layers, and Adam.

    python benchmarks/bench_clapp.py [--repeats N] [--json FILE]
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from measure import Row, cpu_seconds, main, per

from papers.clapp.config import Images
from papers.clapp.encoder import Encoder
from papers.clapp.learning import encoder_of, step_draws
from papers.clapp.step import losses_of, set_rule_gradients

CLAPP = Images()
CLAPP_S = replace(CLAPP, heads="shared", asynchronous=False, negatives=16, anywhere=True)
HINGE_CPC = replace(CLAPP, trainer="loss", modules=(6,))
SMALL = {
    "crop": 32, "widths": (16, 32, 32, 64, 128, 128), "pools": (2, 4, 5), "patch": (8, 8), "stride": (8, 8),
    "offsets": 3, "skip": 0,
}  # fmt: skip
"""Of scale cpu."""
PASSES = {"rule": 2, "loss": 2, "end to end": 3}
"""Products of a layer in units of its forward pass; layers of an end-to-end network alone send gradients down."""


def products(config: Images, encoder: Encoder, passes: int) -> float:
    """Operations of the convolutions in a step, an image."""
    rows = (config.crop - config.patch[0]) // config.stride[0] + 1
    side, total = config.patch[0], 0
    for number, layer in enumerate((layer for stage in encoder.stages for layer in stage.layers), 1):
        total += 2 * layer.weight.numel() * side**2
        side //= 2 if number in config.pools else 1
    return float(passes * rows**2 * total)


def step_of(config: Images, encoder: Encoder, batch: int) -> Callable[[], None]:
    """A training step on random images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, config.crop, config.crop, generator=generator)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=config.rate, fused=True)

    def step() -> None:
        draws = step_draws(config, encoder, x, generator)
        optimiser.zero_grad(set_to_none=True)
        if config.trainer == "rule":
            set_rule_gradients(encoder, x, draws, config.skip)
        else:
            torch.stack(losses_of(encoder, x, config.objective, draws, config.skip)).sum().backward()
        optimiser.step()

    return step


def row(name: str, config: Images, batch: int, repeats: int, reference: str | None = None) -> Row:
    """CPU seconds of an image in a training step."""
    torch.manual_seed(0)
    encoder = encoder_of(config, 1, 10)
    seconds = per(cpu_seconds(step_of(config, encoder, batch), repeats), batch)
    passes = PASSES["end to end" if max(config.modules) > 1 else config.trainer]
    return Row(f"{name}, batch {batch}", "image", seconds, products(config, encoder, passes), reference)


def rows(repeats: int) -> Iterator[Row]:
    """Published size, then scale cpu."""
    for batch in (4, 16):
        yield row("CLAPP, by the rule", CLAPP, batch, repeats, "clapp_released")
        yield row("CLAPP, by the loss", replace(CLAPP, trainer="loss"), batch, repeats, "clapp")
        yield row("Hinge Loss CPC", HINGE_CPC, batch, repeats, "hinge_cpc")
    yield row("CLAPP-s, 16 negatives, by the rule", CLAPP_S, 4, repeats)
    yield row("scale cpu: CLAPP, by the rule", replace(CLAPP, **SMALL), 64, repeats)
    yield row("scale cpu: CLAPP-s, 16 negatives, by the rule", replace(CLAPP_S, **SMALL), 64, repeats)
    yield row("scale cpu: Hinge Loss CPC", replace(HINGE_CPC, **SMALL), 64, repeats)


if __name__ == "__main__":
    main("clapp", lambda repeats: list(rows(repeats)))
