"""A script of PyTorch's and ours, which differ in imports and backward, train alike from equal weights."""

import numpy as np
from habits import compyute_script, torch_script

from compyute_transformer.verify import relative_error

NAMES = {
    "up.": "feed_forward.up.",
    "down.": "feed_forward.down.",
    "attention.in_proj_": "attention.in_",
    "attention.out_proj.": "attention.out_",
}


def ours_of(name: str) -> str:
    return next((name.replace(theirs, ours) for theirs, ours in NAMES.items() if name.startswith(theirs)), name)


def test_losses_weights_and_generated_ids_are_those_of_torch() -> None:
    rng = np.random.default_rng(0)
    shapes = {name: tuple(value.shape) for name, value in torch_script.Model().state_dict().items()}
    weights = {name: (0.3 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    batches = [tuple(rng.integers(0, 13, (2, 4, 6))) for _ in range(40)]
    their_losses, their_weights, their_ids = torch_script.main(weights, batches)
    losses, ours, ids = compyute_script.main({ours_of(name): array for name, array in weights.items()}, batches)
    assert np.abs(np.array(losses) - their_losses).max() <= 1e-5
    assert losses[-1] < losses[0] - 0.1
    for arrays, bias in ((ours, "attention.in_bias"), (their_weights, "attention.in_proj_bias")):
        arrays[bias] = np.delete(arrays[bias], slice(16, 32))  # the keys': softmax forgets it, its gradient is rounding
    assert max(relative_error(ours[ours_of(name)], array) for name, array in their_weights.items()) <= 1e-5
    assert ids == their_ids
    assert np.array_equal(ours["embedding.weight"], weights["embedding.weight"]), "frozen"
