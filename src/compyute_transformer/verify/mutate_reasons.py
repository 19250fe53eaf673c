"""Why mutants that no proof kills change nothing: what the probes found, in words.

A reason is an explanation, never an excuse: the verdict is that of the probes. A mutant without one is listed with what
the probes say.
"""

from .mutate_make import Mutant

__all__ = ["reason"]

INFERRED = "in reshape any negative length is the one that NumPy works out"
DEAD = "a row that is −inf throughout is −inf measured from any number"
BY_THE_DOOR = "the door lets a draw be missing only where the probability is 0"
TIME = "another algorithm for the same function of the same inputs: only the time differs"
SHORTCUT = "the branch only saves a pass over the array"

# (function, what stood there, what stands there now) -> why nothing changes
REASONS: dict[tuple[str, str, str], str] = {
    ("embedding_backward", "1", "2"): INFERRED,
    ("linear_forward", "1", "2"): INFERRED,
    ("linear_backward", "1", "2"): INFERRED,
    ("cross_entropy_backward", "1", "2"): INFERRED,
    ("linear_forward", "x.reshape(-1, x.shape[-1])", "x"): "a product of each batch: the same sums, more slowly",
    ("_sinusoids_float64", "np.arange(0, width, 2, dtype=np.float64)", "np.arange(0, width, 2)"): (
        "small integers are exact, and the division makes them float64"
    ),
    ("_sinusoids_float64", "np.arange(length, dtype=np.float64)", "np.arange(length)"): (
        "small integers are exact, and the product makes them float64"
    ),
    ("softmax_forward", "0", "1"): DEAD,
    ("softmax_forward", "1", "2"): "where the total is 0 so are the shares, whatever they are divided by",
    ("_keep_and_scale", "if probability == 0.0:", "if False:"): SHORTCUT,
    ("fused_attention_forward", "0", "1"): DEAD,
    ("fused_attention_forward", "1", "2"): "a logarithm that is taken where no key is seen is not used",
    ("repeat_heads", "x if group == 1 else x.repeat(group, axis=1)", "x.repeat(group, axis=1)"): SHORTCUT,
    ("sum_heads", "if group == 1:", "if False:"): SHORTCUT,
    ("drop_weights", "probability == 0.0 or draw is None", "draw is None"): BY_THE_DOOR,
    ("drop_weights", "probability == 0.0 or draw is None", "probability == 0.0"): BY_THE_DOOR,
    ("drop_weights", "probability == 0.0 or draw is None", "probability == 0.0 and draw is None"): BY_THE_DOOR,
    ("visible_keys", "if not mask.causal:", "if True:"): "a causal mask hides what the window's other side would",
    ("sequential_multi_head_forward", "(outputs, heads)", "(heads, outputs)"): "two empty lists",
    ("semiparallel_multi_head_forward", "(outputs, heads)", "(heads, outputs)"): "two empty lists",
    ("sequential_multi_head_backward", "reversed(range(len(heads)))", "range(len(heads))"): "a sum in another order",
    ("semiparallel_multi_head_backward", "reversed(range(num_heads))", "range(num_heads)"): "a sum in another order",
    ("sequential_multi_head_backward", "0", "1"): "only the length and dtype of the column are used",
    ("semiparallel_multi_head_backward", "(dk, dv)", "(dv, dk)"): "two arrays of zeros",
    ("cross_entropy_forward", "0", "1"): "the surprise of a row that is ignored is not counted",
    ("cross_entropy_backward", "0", "1"): "the gradient of a row that is ignored is multiplied by zero",
    ("cross_entropy_forward", "if label_smoothing:", "if True:"): "nothing is subtracted",
    ("cross_entropy_backward", "if label_smoothing:", "if True:"): "nothing is subtracted",
    ("MultiHeadAttention._run_cached", "if name == 'fused':", "if True:"): TIME,
    ("MultiHeadAttention._run_cached", "if name == 'fused':", "if False:"): TIME,
    ("MultiHeadAttention._run_cached", "name == 'fused'", "name != 'fused'"): TIME,
    ("MultiHeadAttention._run_cached", "if name == 'parallel':", "if True:"): TIME,
    ("MultiHeadAttention._run_cached", "if name == 'parallel':", "if False:"): TIME,
    ("MultiHeadAttention._run_cached", "name == 'parallel'", "name != 'parallel'"): TIME,
    ("adamw_update", "if weight_decay:", "if True:"): "the weights are multiplied by one",
}


def reason(mutant: Mutant) -> str | None:
    """Why this mutant changes nothing; None where nobody has said."""
    return REASONS.get((mutant.target.name, mutant.before, mutant.after))
