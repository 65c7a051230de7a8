"""What annotators cost in a training step, and in scoring, by how many of them there are.

    OMP_NUM_THREADS=1 python benchmarks/raters_cost.py

A step is forward, loss, backward, clipping of the gradient and AdamW of the last layer alone, on 16 clips with 5
ratings each of arousal, valence and dominance. The last layer reads the head's vector of 512 numbers: heads with 8
directions, a branch of 256 and 256, and embeddings of 8. Scoring makes the outputs of the same clips, with the plane.
"""

import argparse
import time

import numpy as np
import torch

from sertune.model.raters import RaterForm, RaterLayer
from sertune.model.targets import Plane, RaterTarget
from sertune.train.optim import clip_gradients

WIDTH, CLIPS, SLOTS = 512, 16, 5
DIMENSIONS = ("arousal", "valence", "dominance")
FORMS = {
    "heads, rank 8": RaterForm(rank=8),
    "branch 256, 256": RaterForm(branch=(256, 256)),
    "embedding of 8": RaterForm("embedding", rank=8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", nargs="+", type=int, default=[10, 1000, 20000])
    parser.add_argument("--steps", type=int, default=30, help="that are timed, after 3 others; the median is shown")
    options = parser.parse_args()
    print("| form | " + " | ".join(f"{count:,} (ms)" for count in options.raters) + " | last / first |")
    print("|---" * (len(options.raters) + 2) + "|")
    for name, form in FORMS.items():
        for what, timed in (("step", step_seconds), ("scoring", scoring_seconds)):
            taken = [1000 * timed(form, count, options.steps) for count in options.raters]
            cells = " | ".join(f"{value:.2f}" for value in taken)
            print(f"| {name}, {what} | {cells} | {taken[-1] / taken[0]:.1f} |", flush=True)


def built(form: RaterForm, raters: int) -> tuple[RaterTarget, RaterLayer, torch.Tensor, torch.Tensor]:
    """Target, last layer, the head's vectors and encoded targets of a batch."""
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(raters)))
    target = RaterTarget(DIMENSIONS, ((1.0, 5.0),) * 3, names, Plane(), form=form)
    torch.manual_seed(0)
    layer = RaterLayer(WIDTH, 3, 1, raters, form)
    layer.counts.fill_(10.0)
    slots = np.concatenate([rng.integers(raters, size=(CLIPS, SLOTS, 1)), rng.uniform(-1, 1, (CLIPS, SLOTS, 3))], 2)
    plane = np.full((CLIPS, target.before), 1 / target.before)
    targets = torch.from_numpy(np.concatenate([plane, slots.reshape(CLIPS, -1)], 1)).float()
    return target, layer, torch.randn(CLIPS, WIDTH), targets


def step_seconds(form: RaterForm, raters: int, steps: int) -> float:
    """Median seconds of a training step."""
    target, layer, hidden, targets = built(form, raters)
    parameters = list(layer.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        target.loss(layer(hidden, target.slots(targets)), targets).backward()
        clip_gradients(parameters, 1.0)
        optimizer.step()

    return median_seconds(step, steps)


@torch.no_grad()
def scoring_seconds(form: RaterForm, raters: int, steps: int) -> float:
    """Median seconds of finished outputs of a batch, with the plane of all known annotators."""
    target, layer, hidden, targets = built(form, raters)
    layer.eval()
    slots = target.slots(targets)
    return median_seconds(lambda: target.finish(layer(hidden, slots), slots, layer), max(steps // 10, 3))


def median_seconds(run: object, times: int) -> float:
    """Median over ``times`` calls, after 3 others."""
    assert callable(run)
    taken = []
    for _ in range(times + 3):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[3:]))


if __name__ == "__main__":
    main()
