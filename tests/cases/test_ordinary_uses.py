"""Ordinary uses of other libraries' users: what each gives is right, or one sentence says what to do instead."""

import copy
import io
import os
import pickle
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import compyute_transformer as ct
from compyute_transformer import data, generation, nn, ops, optim, training
from compyute_transformer._arguments import OTHER_ATTRIBUTES, OTHER_NAMES
from compyute_transformer.errors import CompyuteError
from compyute_transformer.training.run import checkpoint
from compyute_transformer.training.tasks.registry import name_for
from compyute_transformer.training.watch import watched, watching

CONFIG = ct.GPTConfig(11, context_length=8, embed_dim=16, num_heads=2, num_layers=2)
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 11, (2, 8, 8))
TOKENIZER = data.CharacterTokenizer("abcdefghijk")
CRITERION = nn.CrossEntropyLoss()


def backward(model: Any) -> float:
    model.zero_grad()
    loss = float(CRITERION(model(X), Y))
    model.backward(CRITERION.backward())
    return loss


def losses(model: Any, move: Callable[[Any], None], steps: int = 20) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(backward(model))
        move(model)
    return found


def moved_in_place(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data -= 0.3 * parameter.grad


def moved_anew(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data - 0.3 * parameter.grad


def test_steps_by_hand_train_whether_weights_are_written_or_replaced() -> None:
    in_place, anew = (losses(ct.GPT(CONFIG, seed=1), move) for move in (moved_in_place, moved_anew))
    assert in_place == anew
    assert in_place[-1] < in_place[0] - 0.2


def test_an_average_of_the_weights_follows_the_training() -> None:
    model = ct.GPT(CONFIG, seed=1)
    optimizer, average = optim.AdamW(model.parameters(), 1e-2), copy.deepcopy(model)
    start = [p.data.copy() for p in average.parameters()]

    def move(_: Any) -> None:
        optimizer.step()
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.data[...] = 0.8 * mean.data + 0.2 * parameter.data

    losses(model, move)
    with nn.evaluating():
        assert float(CRITERION(average(X), Y)) < 2.0
    assert not any(np.array_equal(p.data, before) for p, before in zip(average.parameters(), start, strict=True))


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_training_and_sampling_raise_no_floating_point_error(kernels: Any) -> None:
    with np.errstate(all="raise"), ct.use_kernels(kernels):
        model = ct.GPT(CONFIG, seed=1)
        optimizer = optim.AdamW(model.parameters(), 1e-2)
        losses(model, lambda _: optimizer.step(), 5)
        assert len(ct.generate(model, TOKENIZER, "ab", max_new_tokens=9, top_p=0.9)) == 9


def test_optimizer_and_weights_go_on_in_another_model_to_the_bit() -> None:
    model, other = ct.GPT(CONFIG, seed=1), ct.GPT(CONFIG, seed=2)
    optimizer, another = (optim.AdamW(each.parameters(), 1e-2) for each in (model, other))
    losses(model, lambda _: optimizer.step(), 5)
    stream = io.BytesIO()
    np.savez(stream, **model.state_dict())
    stream.seek(0)
    other.load_state_dict(np.load(stream))
    another.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    assert losses(model, lambda _: optimizer.step(), 5) == losses(other, lambda _: another.step(), 5)


def test_a_head_that_is_tied_after_the_optimizer_was_made_is_trained_once() -> None:
    model = ct.GPT(ct.GPTConfig(11, 8, 16, 2, 1, tie_word_embeddings=False), seed=1)
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    model.head.weight = model.token_embedding.weight
    found = losses(model, lambda _: optimizer.step())
    assert found[-1] < found[0] - 0.3
    assert model.head.weight is model.token_embedding.weight


def test_the_head_alone_and_then_the_rest_is_trained() -> None:
    model = ct.GPT(ct.GPTConfig(11, 8, 16, 2, 1, tie_word_embeddings=False), seed=1)
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    optimizer = optim.AdamW(filter(lambda p: p.requires_grad, model.parameters()), 1e-2)
    before = model.blocks.state_dict()
    losses(model, lambda _: optimizer.step(), 5)
    assert all(np.array_equal(array, before[path]) for path, array in model.blocks.state_dict().items())
    model.requires_grad_(True)
    optimizer.add_param_group({"params": list(model.blocks.parameters())})
    losses(model, lambda _: optimizer.step(), 2)
    assert not all(np.array_equal(array, before[path]) for path, array in model.blocks.state_dict().items())


def test_a_block_that_stands_twice_is_trained_as_one() -> None:
    model = ct.GPT(CONFIG, seed=1)
    model.blocks[1] = model.blocks[0]
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    found = losses(model, lambda _: optimizer.step())
    assert found[-1] < found[0] - 0.2


def test_many_models_train_in_threads_as_alone() -> None:
    def work(_: int) -> float:
        model = ct.GPT(CONFIG, seed=1)
        optimizer = optim.AdamW(model.parameters(), 1e-2)
        criterion = nn.CrossEntropyLoss()
        for _ in range(5):
            optimizer.zero_grad()
            loss = float(criterion(model(X), Y))
            model.backward(criterion.backward())
            optimizer.step()
        return loss

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(8)))) == 1


def test_a_model_evaluates_while_another_thread_trains_it() -> None:
    model = ct.GPT(CONFIG, seed=1)
    optimizer, found = optim.AdamW(model.parameters(), 1e-2), []
    thread = threading.Thread(target=lambda: found.extend(losses(model, lambda _: optimizer.step())))
    thread.start()
    with nn.evaluating():
        finite = [np.isfinite(model(X)).all() for _ in range(20)]
    thread.join()
    assert all(finite)
    assert found[-1] < found[0] - 0.3


def test_threads_draw_the_batches_of_one_thread() -> None:
    pairs = [data.Pair("ab"[: 1 + i % 2] * (1 + i % 3), "ba", "pairs.tsv", i + 1) for i in range(40)]
    batches = data.PairBatches(pairs, TOKENIZER, 2, 8)
    expected = [batches.batch(i).source.tolist() for i in range(64)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: batches.batch(i).source.tolist(), range(64))) == expected


def test_a_copied_cache_continues_by_itself() -> None:
    """As where one prompt is read once, and continued several times."""
    model = ct.GPT(CONFIG, seed=1).eval()
    cache = generation.KeyValueCache(model)
    model(X[:1, :4], cache=cache)
    expected = model(X[:1, :5])[:, -1]
    for again in (copy.deepcopy(cache), copy.copy(cache), pickle.loads(pickle.dumps(cache)), cache):
        np.testing.assert_allclose(model(X[:1, 4:5], cache=again)[:, -1], expected, atol=1e-5)
        assert again.length == 5


class Appended(nn.Module):
    """A module that puts layers into a list after it was assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layers = nn.Linear(4, 4), []
        self.layers.append(nn.Linear(4, 4))

    def forward(self, x: Any) -> Any:
        return self.layers[0](self.first(x))


def infinite() -> Any:
    model = ct.GPT(CONFIG, seed=1)
    backward(model)
    next(model.parameters()).grad[0] = np.nan
    return optim.clip_grad_norm_(model.parameters(), 1.0)


def test_a_gradient_that_is_not_finite_is_not_hidden_by_clipping() -> None:
    assert np.isnan(infinite())


def other_dtype() -> Any:
    model = ct.GPT(CONFIG, seed=1).eval()
    cache = generation.KeyValueCache(model)
    return model.to(np.float64)(X[:1], cache=cache)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Appended()(np.ones((1, 4), np.float32)), "a list hides its modules"),
        (lambda: ct.generate(ct.GPT(CONFIG), TOKENIZER, ["ab"], max_new_tokens=3), "use generate_batch"),  # type: ignore[list-item]
        (lambda: ct.generate(ct.GPT(CONFIG), TOKENIZER, None, max_new_tokens=3), "a prompt is a text"),  # type: ignore[arg-type]
        (lambda: TOKENIZER.encode(["ab"]), "a text is a str, got list"),  # type: ignore[arg-type]
        (lambda: data.train_tokenizer("bpe", "abc " * 9, 260).encode(b"ab"), "a text is a str, got bytes"),  # type: ignore[arg-type]
        (lambda: TOKENIZER.decode([1.7]), "ids are integers"),  # type: ignore[list-item]
        (lambda: CRITERION(ct.GPT(CONFIG)(X), np.eye(11)[Y]), "one target a row of logits"),
        (lambda: CRITERION(ct.GPT(CONFIG)(X).transpose(0, 2, 1), Y), "one target a row of logits"),
        (lambda: CRITERION(ct.GPT(CONFIG)(X), Y.astype(float)), "targets are integers"),
        (lambda: ops.softmax(np.ones(3, np.longdouble)), "floats of one dtype"),
        (lambda: generation.prefill(ct.GPT(CONFIG), [[0.5, 1.0]]), "tokens of a context are integers"),  # type: ignore[list-item]
        (lambda: generation.probabilities(np.ones(3), generation.Sampling(repetition_penalty=2), [0.5]), "integers"),  # type: ignore[list-item]
        (lambda: data.TokenBatches(np.arange(99), 2.5, 4), "batch_size is a whole number"),  # type: ignore[arg-type]
        (lambda: data.ImageBatches(np.ones((3, 4, 4)), np.zeros(3), 2, lambda x: x), "pixels have shape"),
        (other_dtype, "keys and values are float32, got float64"),
        (lambda: training.Settings.resolve("nano", None, {"image_size": 8}), "set task to what the data are"),
    ],
)
def test_what_is_not_taken_is_said_in_one_sentence(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(CompyuteError, match=words) as caught:
        call()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((ct, name) for name in ("no_grad", "manual_seed", "tensor", "compile", "load")),
        *((ct, name) for name in ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "pipeline")),
        *((nn, name) for name in ("functional", "Sequential", "GELU", "MultiheadAttention", "TransformerEncoderLayer")),
        *((optim, name) for name in ("Adam", "lr_scheduler")),
    ],
)
def test_names_of_others_say_what_is_here_in_their_place(module: ModuleType, name: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}'. Here it is"):
        getattr(module, name)


PATHS = re.compile(r"\b(?:data|exchange|generation|models|nn|ops|optim|parallel|precision)(?:\.\w+)+")


def test_what_is_here_in_the_place_of_other_names_can_be_pasted() -> None:
    """Each path in a message leads from the package to something, without a further import."""
    told = [*OTHER_NAMES.values(), *OTHER_ATTRIBUTES.values()]
    for module, names in ((ct, ("AutoTokenizer",)), (nn, ("Transformer", "DataParallel", "utils"))):
        for name in names:
            with pytest.raises(AttributeError) as caught:
                getattr(module, name)
            told.append(str(caught.value).partition("Here it is ")[2])
    paths = {path for message in told for path in PATHS.findall(message)}
    assert {"nn.quantize_weights", "parallel.DataParallel", "exchange.Pretrained"} <= paths
    for path in paths:
        first, *rest = path.split(".")
        assert first in ct.__all__, path
        found: object = getattr(ct, first)
        for part in rest:
            found = getattr(found, part)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("double", "to(numpy.float64)"),
        ("cuda", 'to("cuda")'),
        ("register_buffer", "a plain array"),
        ("get_input_embeddings", "token_embedding"),
        ("push_to_hub", "save_pretrained"),
    ],
)
def test_attributes_of_others_say_what_is_here_in_their_place(name: str, ours: str) -> None:
    with pytest.raises(AttributeError, match=re.escape(f"'GPT' object has no attribute '{name}'. Ours is {ours}")):
        getattr(ct.GPT(CONFIG), name)
    with pytest.raises(AttributeError, match=r"'GPT' object has no attribute 'nonsense'$"):
        _ = ct.GPT(CONFIG).nonsense


def test_the_error_within_a_property_is_shown() -> None:
    class Own(ct.nn.Module):
        @property
        def width(self) -> int:
            return len(self.weigth)  # type: ignore[arg-type]

    with pytest.raises(AttributeError, match="'Own' object has no attribute 'weigth'"):
        _ = Own().width


def test_a_configuration_says_our_name_of_a_size() -> None:
    with pytest.raises(AttributeError, match="Ours is embed_dim"):
        _ = CONFIG.hidden_size
    with pytest.raises(AttributeError, match=r"has no attribute 'nhead'. Ours is num_heads"):
        _ = CONFIG.nhead


@pytest.mark.parametrize(
    ("option", "ours"),
    [("labels", "nn.CrossEntropyLoss"), ("output_hidden_states", "return_hidden_states"), ("use_cache", "cache=")],
)
def test_options_of_a_call_of_others_say_ours(option: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"Ours for {option} is .*{ours}"):
        ct.GPT(CONFIG)(np.zeros((1, 3), np.int64), **{option: True})


def test_messages_do_not_control_a_terminal() -> None:
    assert str(CompyuteError("a\x1b[31m\u202eb\nc é")) == "a\\x1b[31m\\u202eb\nc é"


def test_a_long_loop_tells_how_far_it_is() -> None:
    told: list[tuple[int, int]] = []
    with watching(lambda done, total: told.append((done, total))):
        assert list(watched("abc", 3)) == list("abc")
    list(watched("abc", 3))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_validation_and_an_evaluation_tell_how_far_they_are(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    class Bar:
        def report(self, event: Any) -> None: ...

        def close(self) -> None: ...

        def validating(self, done: int, total: int) -> None:
            told.append((done, total))

    (tmp_path / "owl.txt").write_text("The owl and the pussycat went to sea.\n" * 40)
    options = {"context_length": 8, "embed_dim": 16, "num_heads": 2, "num_layers": 1, "batch_size": 4, "steps": 1}
    settings = training.Settings.resolve("nano", None, options)
    training.start_run([tmp_path / "owl.txt"], settings, tmp_path / "run", Bar())
    total = told[-1][1]
    assert told[:total] == [(done, total) for done in range(1, total + 1)]
    assert len(told) % total == 0


def test_what_macos_puts_into_an_archive_is_no_class(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "__MACOSX/cat/1.png"):
        os.makedirs(tmp_path / Path(name).parent, exist_ok=True)
        image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    assert data.load_images(tmp_path).classes == ("cat", "dog")


def test_a_link_that_leads_to_itself_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert name_for([str(tmp_path / "loop")], "nano") == "loop"
    with pytest.raises(CompyuteError, match=r"there is no .*loop"):
        data.load_corpus(tmp_path / "loop")


def test_checkpoints_that_cannot_be_read_are_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumption would begin anew, and cut the log to one line."""

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CompyuteError, match=r"checkpoints must be readable.*Permission denied"):
        checkpoint.steps(tmp_path)
