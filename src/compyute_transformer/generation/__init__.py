"""LOGITS -> TEXT: everything between the logits of a model and the text that a person reads.

sampling       one token sampled from logits: repetition penalty, temperature, top-k, top-p, min-p
cache          keys and values of the positions read so far
fused_decoder  a few positions through all blocks as one op
captured_decoder  one position on a GPU as one CUDA graph
decode         prefill, step, and the window past the end of the context
detokenize     tokens to text: whole characters, and nothing of a stop text
text           a prompt is read, then token follows token
ids            the same on arrays of ids
batch          several prompts at once
likelihood     how probable a text is: perplexity, and the best of several continuations
beam           which hypotheses are kept, and which is the best
search         the continuation of a prompt by beam search
speculative    tokens that a smaller model guesses, read together
translation    translations by greedy search, beam search or sampling
attention      the attention weights of a model, as arrays
pictures       the same as pictures of a prompt or a translation
"""

from .._earlier_names import earlier_names
from .attention import attention_maps, named_attention_maps
from .batch import generate_batch
from .cache import KeyValueCache
from .decode import prefill, step
from .ids import generate_ids
from .likelihood import Choice, choose, evaluate_ids, log_likelihoods
from .sampling import Sampling, probabilities, sample
from .search import Continuation, beam_search
from .text import TextStream, generate, stream
from .translation import Translation, stream_translation, translate

__all__ = [
    "Choice",
    "Continuation",
    "KeyValueCache",
    "Sampling",
    "TextStream",
    "Translation",
    "attention_maps",
    "beam_search",
    "choose",
    "evaluate_ids",
    "generate",
    "generate_batch",
    "generate_ids",
    "log_likelihoods",
    "named_attention_maps",
    "prefill",
    "probabilities",
    "sample",
    "step",
    "stream",
    "stream_translation",
    "translate",
]

__getattr__ = earlier_names(__name__, {"Answer": "generation.Translation", "draw_attention": "plotting.plot_attention"})
