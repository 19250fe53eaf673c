"""Why mutants that no check kills do no harm: what the probes found, in words.

A reason is an explanation, never an excuse: the probes decide the status. A mutant without one is listed with what
the probes say.
"""

from .make import Mutant

__all__ = ["REASONS", "reason"]

# why -> (function, what stood there, what stands there now)
REASONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "the second result is for attention weights, which these probes do not ask for": (
        (
            "LoRAAttention._run",
            "return (self._change_out(y, merged.pop()), saved)",
            "return (self._change_out(y, merged.pop()), 0 * saved)",
        ),
    ),
    "an annotation computes nothing": (("LoRAAttention._changed", "(Array, Any)", "(Any, Array)"),),
    "each branch has its own rows, and the gradients of x are a sum": (
        (
            "LoRAAttention._changed_backward",
            "reversed(list(zip(self.rows, self.lora_in, strict=True)))",
            "list(zip(self.rows, self.lora_in, strict=True))",
        ),
    ),
    "the smaller of two is the same in either order": (
        ("LoRAAttention._change", "min(last, stop)", "min(stop, last)"),
    ),
    "a sum of two is the same in either order": (
        ("PreNormBlock.forward", "added(x, branch)", "added(branch, x)"),
        ("PreNormBlock.backward", "added(dx, dbranch)", "added(dbranch, dx)"),
        (
            "PostNormBlock.forward",
            "added(x, self.attention_dropout(self.attention(x, None, mask, cache)))",
            "added(self.attention_dropout(self.attention(x, None, mask, cache)), x)",
        ),
        (
            "PostNormBlock.forward",
            "added(x, self.feed_forward_dropout(self.feed_forward(x)))",
            "added(self.feed_forward_dropout(self.feed_forward(x)), x)",
        ),
        (
            "PostNormBlock.backward",
            "added(dx, self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))",
            "added(self.feed_forward.backward(self.feed_forward_dropout.backward(dx)), dx)",
        ),
        (
            "PostNormBlock.backward",
            "added(dx, self.attention.backward(self.attention_dropout.backward(dx))[0])",
            "added(self.attention.backward(self.attention_dropout.backward(dx))[0], dx)",
        ),
        (
            "CrossBlock.forward",
            "added(x, self.attention_dropout(self.attention(x, None, mask, cache)))",
            "added(self.attention_dropout(self.attention(x, None, mask, cache)), x)",
        ),
        (
            "CrossBlock.forward",
            "added(x, self.cross_attention_dropout(self.cross_attention(x, source, memory_mask)))",
            "added(self.cross_attention_dropout(self.cross_attention(x, source, memory_mask)), x)",
        ),
        (
            "CrossBlock.forward",
            "added(x, self.feed_forward_dropout(self.feed_forward(x)))",
            "added(self.feed_forward_dropout(self.feed_forward(x)), x)",
        ),
        (
            "CrossBlock.backward",
            "added(dx, self.feed_forward.backward(self.feed_forward_dropout.backward(dx)))",
            "added(self.feed_forward.backward(self.feed_forward_dropout.backward(dx)), dx)",
        ),
        ("CrossBlock.backward", "added(dx, dcross)", "added(dcross, dx)"),
        (
            "CrossBlock.backward",
            "added(dx, self.attention.backward(self.attention_dropout.backward(dx))[0])",
            "added(self.attention.backward(self.attention_dropout.backward(dx))[0], dx)",
        ),
    ),
    "kernels in bfloat16 compute it, which tests hold to the lines of the block": (
        ("PreNormBlock.forward", "if (y := block_forward_at_once(self, x, mask, cache)) is not None:", "if False:"),
        (
            "PreNormBlock.forward",
            "block_forward_at_once(self, x, mask, cache)",
            "block_forward_at_once(x, self, mask, cache)",
        ),
        (
            "PreNormBlock.forward",
            "block_forward_at_once(self, x, mask, cache)",
            "block_forward_at_once(self, mask, x, cache)",
        ),
        (
            "PreNormBlock.forward",
            "block_forward_at_once(self, x, mask, cache)",
            "block_forward_at_once(self, x, cache, mask)",
        ),
        ("PreNormBlock.backward", "if (dstream := block_backward_at_once(self, dx)) is not None:", "if False:"),
        ("PreNormBlock.forward", "return y", "return 0 * y"),
        ("PreNormBlock.backward", "return dstream", "return 0 * dstream"),
    ),
    "in reshape any negative length is the one that NumPy works out": (
        ("embedding_backward", "1", "2"),
        ("linear_forward", "1", "2"),
        ("linear_backward", "1", "2"),
        ("cross_entropy_backward", "1", "2"),
        ("sum_of_rows", "1", "2"),
    ),
    "a row that is −inf throughout is −inf measured from any number": (
        ("softmax_forward", "0", "1"),
        ("fused_attention_forward", "0", "1"),
    ),
    "where the total is 0 so are the shares, whatever they are divided by": (
        ("softmax_forward", "1", "2"),
        ("fused_attention_weights", "1", "2"),
    ),
    "a logarithm that is taken where no key is seen is not used": (("fused_attention_forward", "1", "2"),),
    "a key's bias moves all scores of a query alike, and softmax forgets it": (
        ("sequential_multi_head_forward", "k_rows", "v_rows"),
    ),
    "the validation lets a draw be missing only where the probability is 0": (
        ("drop_weights", "probability == 0.0 or key is None", "key is None"),
        ("drop_weights", "probability == 0.0 or key is None", "probability == 0.0"),
        ("drop_weights", "probability == 0.0 or key is None", "probability == 0.0 and key is None"),
    ),
    "the branch only saves a pass over the array": (
        ("_keep_and_scale", "if probability == 0.0:", "if False:"),
        ("_keep_and_scale", "probability", "key"),
        ("drop_weights", "probability", "key"),
        ("repeat_heads", "x if group == 1 else x.repeat(group, axis=1)", "x.repeat(group, axis=1)"),
        ("sum_heads", "if group == 1:", "if False:"),
        ("cross_entropy_forward", "if label_smoothing:", "if True:"),
        ("cross_entropy_backward", "if label_smoothing:", "if True:"),
        ("cross_entropy_backward", "label_smoothing", "V"),
        ("adamw_update", "if weight_decay:", "if True:"),
        ("weighted_sum", "if xp.isfinite(product).all():", "if False:"),
        (
            "attention_weights",
            "per_head[0] if len(per_head) == 1 else array_module(per_head[0]).concatenate(per_head, axis=1)",
            "array_module(per_head[0]).concatenate(per_head, axis=1)",
        ),
    ),
    "a copy that is not needed: more memory, the same numbers": (
        (
            "adamw_update",
            "gradient.astype(first_moment.dtype, copy=False)",
            "gradient.astype(first_moment.dtype)",
        ),
    ),
    "NumPy copies unless it is told not to": (
        (
            "Parameter.accumulate",
            "gradient.astype(self.data.dtype, copy=True)",
            "gradient.astype(self.data.dtype)",
        ),
    ),
    "a product for each batch: the same sums, more slowly": (("linear_forward", "x.reshape(-1, x.shape[-1])", "x"),),
    "small integers are exact, and become float64 in the next operation": (
        ("_sinusoids_float64", "np.arange(0, width, 2, dtype=np.float64)", "np.arange(0, width, 2)"),
        ("_sinusoids_float64", "np.arange(length, dtype=np.float64)", "np.arange(length)"),
        ("rotary_frequencies", "np.arange(0, width, 2, dtype=np.float64)", "np.arange(0, width, 2)"),
        (
            "rotary_tables",
            "np.arange(start, start + length, dtype=np.float64)",
            "np.arange(start, start + length)",
        ),
    ),
    "axes that stay beside each other are laid flat together again, whichever is named first": (
        (
            "cut_patches",
            "images.reshape(B, height // P, P, width // P, P, channels)",
            "images.reshape(height // P, B, P, width // P, P, channels)",
        ),
        (
            "cut_patches",
            "images.reshape(B, height // P, P, width // P, P, channels)",
            "images.reshape(B, height // P, P, width // P, channels, P)",
        ),
        (
            "join_patches",
            "patches.reshape(B, height // P, width // P, P, P, channels)",
            "patches.reshape(height // P, B, width // P, P, P, channels)",
        ),
        (
            "join_patches",
            "patches.reshape(B, height // P, width // P, P, P, channels)",
            "patches.reshape(B, height // P, width // P, P, channels, P)",
        ),
    ),
    "a distance is the same both ways": (
        (
            "apply_mask",
            "xp.arange(S - T, S)[:, None] - xp.arange(S)",
            "xp.arange(S) - xp.arange(S - T, S)[:, None]",
        ),
    ),
    "the side of a patch is positive": (("cut_patches", "P * P", "P * abs(P)"),),
    "a causal mask hides what the window's other side would": (("visible_keys", "if not mask.causal:", "if True:"),),
    "two empty lists, or two arrays of zeros": (
        ("sequential_multi_head_forward", "(outputs, heads)", "(heads, outputs)"),
        ("head_by_head_forward", "(outputs, heads)", "(heads, outputs)"),
        ("head_by_head_backward", "(dk, dv)", "(dv, dk)"),
    ),
    "a sum in another order": (
        ("sequential_multi_head_backward", "reversed(range(len(heads)))", "range(len(heads))"),
        ("head_by_head_backward", "reversed(range(H))", "range(H)"),
    ),
    "heads that are written too early are written again": (("head_by_head_backward", "h", "g"),),
    "a row that is ignored counts as zero in the end": (
        ("cross_entropy_forward", "0", "1"),
        ("cross_entropy_backward", "0", "1"),
    ),
    "all that is asked is on which device it lives: without a GPU, on the CPU": (
        ("MultiHeadAttention.forward", "x", "memory"),
        ("MultiHeadAttention.forward", "x", "mask"),
    ),
    "all that is asked is a length, a dtype or a number of axes, and the other has the same": (
        ("linear_forward", "x", "weight"),
        ("linear_backward", "x", "weight"),
        ("layer_norm_backward", "dy", "x"),
        ("softmax_forward", "x", "highest"),
        ("softmax_forward", "x", "y"),
        ("attention_forward", "k", "v"),
        ("attention_backward", "k", "v"),
        ("attention_backward", "q", "k"),
        ("attention_backward", "q", "v"),
        ("fused_attention_forward", "k", "v"),
        ("fused_attention_forward", "scores", "highest"),
        ("fused_attention_backward", "k", "v"),
        ("fused_attention_backward", "q", "k"),
        ("fused_attention_backward", "q", "v"),
        ("scaled_scores", "scores", "q"),
        ("scaled_scores", "scores", "k"),
        ("scaled_scores", "q", "k"),
        ("sequential_multi_head_backward", "dheads", "dout_weight"),
        ("cross_entropy_backward", "rows", "scored"),
        ("cross_entropy_backward", "rows", "drows"),
        ("cross_entropy_backward", "logits", "logsumexp"),
    ),
    "either formula of the logistic function is exact where the exponential is small": (
        ("logistic", "x.real < 0", "x.real <= 0"),
        ("logistic", "0", "1"),
    ),
    "a weight of zero multiplies whatever finite number stands there": (
        ("attention_backward", "0", "1"),
        ("weighted_sum", "0", "1"),
    ),
    "a product with booleans takes them as zero and one": (
        ("weighted_sum", "(weights != 0).astype(weights.dtype)", "weights != 0"),
        ("weighted_sum", "wild.astype(weights.dtype)", "wild"),
    ),
    "only the mask, the dropout and the key are read": (
        (
            "head_by_head_forward",
            "MultiHeadOptions(H, K, mask, dropout, key)",
            "MultiHeadOptions(K, H, mask, dropout, key)",
        ),
    ),
    "a slice by twos holds the same elements": (
        ("pairs_of", "0:2 * count:2", "0:2 * count - 1:2"),
        ("pairs_of", "1:2 * count:2", "1:2 * count + 1:2"),
    ),
    "one pair of columns turns by 1 whatever theta is": (("rotary_frequencies", "1", "2"),),
    "an original length is at least 1, and dynamic scaling begins past it": (("rotary_frequencies", "0", "1"),),
    "at the original length itself, dynamic scaling changes nothing": (
        (
            "rotary_frequencies",
            "length > scaling.original_length",
            "length >= scaling.original_length",
        ),
    ),
    "the larger, or the smaller, of two numbers in another order": (
        (
            "_kept_by_llama3",
            "np.clip((turns - low) / (high - low), 0.0, 1.0)",
            "np.clip(0.0, (turns - low) / (high - low), 1.0)",
        ),
        (
            "_kept_by_yarn",
            "np.clip((np.arange(width // 2) - start) / (end - start), 0.0, 1.0)",
            "np.clip(0.0, (np.arange(width // 2) - start) / (end - start), 1.0)",
        ),
        ("_kept_by_yarn", "min(end, width - 1.0)", "min(width - 1.0, end)"),
        ("_kept_by_yarn", "max(start, 0.0)", "max(0.0, start)"),
    ),
    "where the ramp has no width it is a step, however little is added": (("_kept_by_yarn", "0.001", "0.001001"),),
    "scores depend on the distance of two positions alone": (("MultiHeadAttention._prepare", "0", "1"),),
    "without rotary positions nothing reads the start": (("MultiHeadAttention._project", "0", "1"),),
    "Llama adds nothing to embedded tokens: its attentions know the positions, so the start is not read": (
        ("Llama.embed", "0", "1"),
        (
            "Llama.forward",
            "self.embed(ids, start, padding, inputs_embeds)",
            "self.embed(ids, padding, start, inputs_embeds)",
        ),
    ),
    "a longer table of rotations has the same first rows": (
        ("_room", "1", "2"),
        ("_room", "int(end) - 1", "int(end) + 1"),
        ("_room", "int(end) - 1", "int(end)"),
        ("_room", "0", "1"),
    ),
    "the frequencies look at the length themselves: it is left out so that equal tables are made once": (
        ("RotaryPosition.forward", "end if longer else 0", "end"),
        ("RotaryPosition.forward", "0", "1"),
    ),
    "a name is one of two, in any order": (
        ("is_attention", "('attention', 'cross_attention')", "('cross_attention', 'attention')"),
    ),
    "of several arguments that are refused, the error names another one first": (
        (
            "LanguageModel.check_forward",
            "(('cache', cache), ('padding', padding), ('logits_to_keep', logits_to_keep))",
            "(('padding', padding), ('cache', cache), ('logits_to_keep', logits_to_keep))",
        ),
        (
            "LanguageModel.check_forward",
            "(('cache', cache), ('padding', padding), ('logits_to_keep', logits_to_keep))",
            "(('cache', cache), ('logits_to_keep', logits_to_keep), ('padding', padding))",
        ),
        (
            "Transformer.decode",
            "(('cache', cache), ('logits_to_keep', logits_to_keep))",
            "(('logits_to_keep', logits_to_keep), ('cache', cache))",
        ),
    ),
    "a boolean's type makes the same zero or infinity": (("fused_attention_forward", "scores", "seen"),),
    "a total is positive exactly where a key is seen": (("fused_attention_forward", "seen", "total"),),
    "the gradient passes through: both are one array": (("LearnedPosition.backward", "dx", "dy"),),
    "the backward reads nothing of what is saved; memory is held a little longer": (
        ("SinusoidalPosition.forward", "saved", "x"),
        ("SinusoidalPosition.forward", "saved", "start"),
    ),
}


def reason(mutant: Mutant) -> str | None:
    """Why this mutant does no harm; None where nobody has said."""
    key = mutant.target.name, mutant.before, mutant.after
    return next((why for why, keys in REASONS.items() if key in keys), None)
