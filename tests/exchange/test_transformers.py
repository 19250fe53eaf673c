"""Hugging Face Transformers itself: random models of every family that it makes, beside ours with the same weights.

Logits agree within 1e-5 in float32 and 1e-12 in float64, the gradient of every parameter within 1e-4 and 1e-10. The
gradients are compared by the names of Transformers: a copy of our model whose weights are its gradients is written as
a directory, which Transformers opens.

In a float64 model, Transformers computes RMS norms and the angles of rotary positions in float32, which changes logits
by 1e-7. `float64_throughout` replaces float32 in its code by float64.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from compyute_transformer import use_kernels
from compyute_transformer.data import CharacterTokenizer, train_tokenizer
from compyute_transformer.exchange import AutoModel, read_tensors
from compyute_transformer.generation import Sampling, probabilities
from compyute_transformer.models import GPTConfig, LlamaConfig
from compyute_transformer.models.registry import build_model
from compyute_transformer.nn import CrossEntropyLoss
from compyute_transformer.optim import AdamW
from compyute_transformer.training import load_classifier, save_classifier
from compyute_transformer.training.tasks.classifier import TextClassifier
from compyute_transformer.verify.function import randomize

V, C, H, K, F, L = 37, 24, 4, 2, 40, 256
B, T = 3, 19

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": V,
    "n_embd": C,
    "n_head": H,
    "n_layer": 2,
    "n_positions": L,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": V,
    "hidden_size": C,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "num_key_value_heads": K,
    "max_position_embeddings": L,
    "rms_norm_eps": 1e-3,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 5, "head_dim": 10}
QWEN2 = LLAMA | {"model_type": "qwen2"}
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": 10}
BERT = {
    "model_type": "bert",
    "vocab_size": V,
    "hidden_size": C,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "max_position_embeddings": 32,
    "type_vocab_size": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VIT = {
    "model_type": "vit",
    "image_size": [8, 12],
    "patch_size": 4,
    "hidden_size": C,
    "intermediate_size": F,
    "num_hidden_layers": 2,
    "num_attention_heads": H,
    "num_labels": 5,
}


def scaled(kind: str, **options: Any) -> dict[str, Any]:
    return LLAMA | {"rope_theta": 100.0, "rope_scaling": {"rope_type": kind, "factor": 4.0, **options}}


DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2 with a head of its own": GPT2
    | {"tie_word_embeddings": False, "n_inner": F, "activation_function": "gelu", "layer_norm_epsilon": 1e-3},
    "gpt2 with relu": GPT2 | {"activation_function": "relu"},
    "llama 2": LLAMA | {"num_key_value_heads": H},
    "llama with biases": LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 10},
    "llama with one key head": LLAMA | {"num_key_value_heads": 1, "hidden_act": "gelu"},
    "smollm2": LLAMA
    | {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "rope_theta": 1e5}
    | {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
    "llama linear": scaled("linear"),
    "llama 3": scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    "llama yarn": scaled("yarn", original_max_position_embeddings=64),
    "llama yarn, every option": scaled(
        "yarn",
        original_max_position_embeddings=64,
        beta_fast=16.0,
        beta_slow=2.0,
        truncate=False,
        attention_factor=1.3,
    ),
    "mistral": MISTRAL,
    "mistral without a window": MISTRAL | {"sliding_window": None},
    "qwen2": QWEN2 | {"tie_word_embeddings": True},
    "qwen2 with a window": QWEN2 | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
    "qwen3": QWEN3,
    "qwen3 with biases and a window": QWEN3
    | {"attention_bias": True, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0},
}
CASES = DECODERS | {
    "llama dynamic, past its length": scaled("dynamic") | {"max_position_embeddings": 12},
    "bert": BERT,
    "bert with a head of its own": BERT
    | {"tie_word_embeddings": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
    "bert with relu": BERT | {"hidden_act": "relu"},
    "bert without a head": BERT | {"architectures": ["BertModel"]},
    "vit": VIT,
    "vit of gray squares": VIT
    | {"image_size": 12, "num_channels": 1, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}

# Parameters that no output depends on; the first bias of a head of its own is one in version 5 alone.
UNUSED = {
    "bert without a head": ("pooler.dense.weight", "pooler.dense.bias"),
    "bert with a head of its own": ("cls.predictions.bias",),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread: for so small products more of them wait for each other most of the time."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    yield
    torch.set_num_threads(number)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Let float32 in the code of Transformers mean float64: in RMS norms, rotary positions and softmax."""
    plain = torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(plain)


def auto(values: dict[str, Any]) -> Any:
    """Return the class of Transformers that makes and opens such a model."""
    heads = {"bert": "AutoModelForMaskedLM", "vit": "AutoModelForImageClassification"}
    name = heads.get(values["model_type"], "AutoModelForCausalLM")
    return getattr(transformers, "AutoModel" if values.get("architectures") == ["BertModel"] else name)


def made(values: dict[str, Any], dtype: Any = torch.float32) -> Any:
    """Return a model of Transformers with random weights: matrices of variance 1/columns, vectors ±0.3."""
    options = {name: value for name, value in values.items() if name not in ("model_type", "architectures")}
    config = transformers.AutoConfig.for_model(values["model_type"], **options)
    model = auto(values).from_config(config, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(dtype)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.3 * noise)
    return model


def opened(folder: Path, values: dict[str, Any], **options: Any) -> Any:
    """Return our model of a directory."""
    longer = {"context_length": T} if values.get("max_position_embeddings", T) < T else {}
    return AutoModel.from_pretrained(folder, **longer, **options)


def batch(values: dict[str, Any], dtype: Any) -> tuple[tuple[Any, ...], dict[str, Any], np.ndarray, np.ndarray]:
    """Return inputs of ours, the same for Transformers, targets, and which rows of the logits count."""
    rng = np.random.default_rng(2)
    if values["model_type"] == "vit":
        size = values["image_size"] if isinstance(values["image_size"], list) else [values["image_size"]] * 2
        images = rng.normal(size=(B, *size, values.get("num_channels", 3))).astype(dtype)
        theirs = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
        return (images,), theirs, rng.integers(0, 5, B), np.ones(B, bool)
    ids, targets = rng.integers(0, V, (B, T)), rng.integers(0, C, (B, T))
    if values["model_type"] != "bert":
        return (ids,), {"input_ids": torch.from_numpy(ids)}, targets, np.ones((B, T), bool)
    lengths, types = np.array([T, 1, 8]), rng.integers(0, 3, (B, T))
    counts = np.arange(T) < lengths[:, None]
    named = {"input_ids": ids, "token_type_ids": types, "attention_mask": counts.astype(np.int64)}
    targets = np.where(counts, targets, -100)
    return (ids, lengths, types), {name: torch.from_numpy(array) for name, array in named.items()}, targets, counts


def output(model: Any, inputs: dict[str, Any]) -> Any:
    return model(**inputs)[0]  # the logits, or the vectors of the last block


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_logits_and_the_gradient_of_every_parameter(name: str, precision: str, tmp_path: Path) -> None:
    values, double = CASES[name], precision == "float64"
    dtype = np.dtype(precision)
    inputs, named, targets, counts = batch(values, dtype)
    with float64_throughout() if double else nullcontext():
        theirs = made(values, getattr(torch, precision))
        theirs.save_pretrained(tmp_path / "theirs")
        expected = output(theirs, named)
        loss = torch.nn.functional.cross_entropy(expected.flatten(0, -2), torch.from_numpy(targets).flatten())
        loss.backward()
    with use_kernels("reference") if double else nullcontext():  # in float64 the formulas, in float32 the kernels
        ours, criterion = opened(tmp_path / "theirs", values), CrossEntropyLoss()
        ours.train()
        assert ours.flat.data.dtype == dtype
        logits = ours(*inputs)
        ours_loss = criterion(logits, targets)
        ours.backward(criterion.backward())
    error = np.abs(logits - expected.detach().numpy())[counts].max()
    assert error <= (1e-12 if double else 1e-5)
    assert abs(ours_loss - loss.item()) <= (1e-12 if double else 1e-5)
    for parameter in ours.parameters():
        parameter.data[...] = parameter.grad
    ours.save_pretrained(tmp_path / "gradients")
    gradients = dict(auto(values).from_pretrained(tmp_path / "gradients", dtype=theirs.dtype).named_parameters())
    unused = {own for own, parameter in theirs.named_parameters() if parameter.grad is None}
    assert unused <= set(UNUSED.get(name, ()))
    for own, parameter in theirs.named_parameters():
        if own in unused:
            continue
        error = (gradients[own] - parameter.grad).abs().max().item()
        assert error <= (1e-10 if double else 1e-4), own
        without = ("key.bias", "k_proj.bias") if values["model_type"] in ("bert", "vit") else ()
        assert own.endswith(without) or parameter.grad.abs().max() > 1e-3, f"{own} is tested by numbers of no size"


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """Return what Transformers logs from the level of a warning on."""
    found: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    handler, logger = Note(logging.WARNING), logging.getLogger("transformers")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def opens(folder: Path, values: dict[str, Any]) -> Any:
    """Return the model that Transformers reads from a directory, in which it misses nothing."""
    model, told = auto(values).from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_what_we_write_opens_without_a_warning_and_comes_back(name: str, tmp_path: Path, complaints: list[str]) -> None:
    values = CASES[name]
    made(values).save_pretrained(tmp_path / "theirs")
    ours = opened(tmp_path / "theirs", values)
    ours.save_pretrained(tmp_path / "ours")
    again = build_model(ours.config).eval()  # without what config.json said beside our fields
    again.load_state_dict(ours.state_dict())
    again.save_pretrained(tmp_path / "plain")
    complaints.clear()
    inputs, named, _, counts = batch(values, np.float32)
    for folder in ("ours", "plain"):
        theirs = opens(tmp_path / folder, values)
        assert np.abs(output(theirs, named).detach().numpy() - ours(*inputs))[counts].max() <= 1e-5
        theirs.save_pretrained(tmp_path / "back")
        back = opened(tmp_path / "back", values)
        assert np.array_equal(back(*inputs), ours(*inputs))
    assert complaints == []


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_text_is_identical(name: str, tmp_path: Path) -> None:
    theirs = made(DECODERS[name])
    theirs.save_pretrained(tmp_path)
    ids = np.random.default_rng(3).integers(0, V, (2, 9))
    mask = torch.ones(ids.shape, dtype=torch.int64)
    options: dict[str, Any] = {"max_new_tokens": 200, "repetition_penalty": 3.0}  # without, it repeats itself soon
    written = theirs.generate(torch.from_numpy(ids), attention_mask=mask, do_sample=False, pad_token_id=0, **options)
    ours = AutoModel.from_pretrained(tmp_path).generate(ids, temperature=0, **options)
    assert ours.shape == (2, 209)
    assert len(set(ours[0].tolist())) > 9
    assert np.array_equal(ours, written.numpy())


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.9, "top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.2},
        {"repetition_penalty": 1.7},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 0.6},
    ],
    ids=str,
)
def test_tokens_are_sampled_from_the_same_distribution(options: dict[str, Any]) -> None:
    theirs = made(GPT2)
    ids = np.random.default_rng(4).integers(0, V, (1, 9))
    found = theirs.generate(
        torch.from_numpy(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.int64),
        max_new_tokens=4,
        do_sample=True,
        pad_token_id=0,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **{"top_k": 0, **options},  # by default they take 50
    )
    sampling, kept = Sampling(**{"temperature": 1.0, **options}), 0
    for step, (logits, scores) in enumerate(zip(found.logits, found.scores, strict=True)):
        seen = found.sequences[0, : 9 + step].tolist()
        expected = scores[0].double().softmax(0).numpy()
        assert np.abs(probabilities(logits[0].numpy(), sampling, seen) - expected).max() <= 1e-6
        kept += np.count_nonzero(expected)
    cuts = {"top_k", "top_p", "min_p"} & options.keys()
    assert (kept < 4 * V) == bool(cuts)


@pytest.mark.parametrize("name", ["gpt2", "smollm2"])
def test_ten_steps_of_training_have_the_same_losses(name: str, tmp_path: Path) -> None:
    theirs = made(DECODERS[name])
    theirs.save_pretrained(tmp_path)
    theirs.train()
    ours, criterion = AutoModel.from_pretrained(tmp_path).train(), CrossEntropyLoss()
    optimizer = AdamW(ours.parameters(), lr=1e-2, weight_decay=0.1)
    optimizer_of_theirs = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    losses: list[tuple[float, float]] = []
    (ids,), named, targets, _ = batch(DECODERS[name], np.float32)
    for _ in range(10):
        loss = criterion(ours(ids), targets)
        optimizer.zero_grad()
        ours.backward(criterion.backward())
        optimizer.step()
        loss_of_theirs = torch.nn.functional.cross_entropy(
            output(theirs, named).flatten(0, 1), torch.from_numpy(targets).flatten()
        )
        optimizer_of_theirs.zero_grad()
        loss_of_theirs.backward()
        optimizer_of_theirs.step()
        losses.append((float(loss), loss_of_theirs.item()))
    assert losses[-1][0] < losses[0][0] - 0.5
    assert max(abs(a - b) for a, b in losses) <= 1e-4


CLASSIFIERS = {
    "gpt2": GPTConfig(27, 16, C, H, 2, bias=False),
    "llama": LlamaConfig(27, 16, C, H, 2, num_kv_heads=K),
    "qwen2": LlamaConfig(27, 16, C, H, 1, attn_bias=True, tie_word_embeddings=False),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_of_texts_opens_and_comes_back(name: str, tmp_path: Path, complaints: list[str]) -> None:
    trunk = build_model(CLASSIFIERS[name])
    model = TextClassifier(trunk, 3).eval()
    randomize(model)
    tokenizer = CharacterTokenizer(" abcdefghijklmnopqrstuvwxyz")
    save_classifier(model, tmp_path / "ours", ("bad", "so so", "good"), tokenizer=tokenizer)
    kind = transformers.AutoModelForSequenceClassification
    theirs, told = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(told.values()), told
    assert theirs.config.id2label == {0: "bad", 1: "so so", 2: "good"}
    assert complaints == []
    theirs.save_pretrained(tmp_path / "back")
    again, labels = load_classifier(tmp_path / "back")
    assert labels == ("bad", "so so", "good")
    ids, lengths = np.random.default_rng(5).integers(0, 27, (2, 9)), np.array([9, 4])
    logits = model(ids, lengths)
    assert np.array_equal(again(ids, lengths), logits)
    for row, length in enumerate(lengths):  # one after the other: without a pad_token_id they take no batch
        expected = theirs(torch.from_numpy(ids[row : row + 1, :length])).logits[0].detach().numpy()
        assert np.abs(logits[row] - expected).max() <= 1e-5
    save_classifier(again, tmp_path / "again", labels)
    assert read_tensors(tmp_path / "again").keys() == read_tensors(tmp_path / "ours").keys()


TEXT = "a text of few words, and a text of fewer words\n"


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_a_tokenizer_of_ours_gives_the_same_ids(kind: str, tmp_path: Path, complaints: list[str]) -> None:
    tokenizer = CharacterTokenizer.train(TEXT) if kind == "characters" else train_tokenizer(kind, TEXT, 262)
    model = build_model(LlamaConfig(tokenizer.vocab_size, 8, C, H, 1))
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode(TEXT).tolist()
    assert theirs(TEXT)["input_ids"] == ids
    assert theirs.decode(ids) == TEXT
    assert complaints == []


def test_a_gpt_without_biases_is_a_gpt2_whose_biases_are_zero(tmp_path: Path, complaints: list[str]) -> None:
    model = build_model(GPTConfig(V, L, C, H, 2, bias=False)).eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    (ids,), named, _, _ = batch(GPT2, np.float32)
    assert np.abs(output(opens(tmp_path, GPT2), named).detach().numpy() - model(ids)).max() <= 1e-5
    assert complaints == []
