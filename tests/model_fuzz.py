"""Mutate other people's models, open them as the commands do, and hold what comes of it to four rules.

No error but the library's own, none that is long or controls a terminal, none that takes more than five seconds, and
no more memory than twice the files, beside what every model takes. Mutated weights are weights: their values may be
others.

    python tests/model_fuzz.py --mutations 5000 --seed 0
    python tests/model_fuzz.py --format gguf
"""

import argparse
import json
import pickle
import random
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_helpers import TEXT
from fuzz_helpers import broken_rule, flip, of_bytes, of_json

from compyute_transformer import use_kernels
from compyute_transformer.data import CharacterTokenizer, train_tokenizer
from compyute_transformer.exchange import Pretrained, save_compyute, save_pretrained
from compyute_transformer.models import GPT, Bert, BertConfig, GPTConfig, Llama, LlamaConfig
from compyute_transformer.verify.function import randomize

__all__ = ["FORMATS", "fuzz_models"]

BESIDE = 8 << 20  # bytes: a tokenizer, parsed JSON, a forward pass, whatever the size of the file
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
HUGE = (2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def _directory(folder: Path) -> str:
    tokenizer = train_tokenizer("bpe", TEXT, vocab_size=280)
    config = LlamaConfig(tokenizer.vocab_size, 24, 16, num_heads=4, num_kv_heads=2, num_layers=1)
    model = Llama(config)
    randomize(model)
    save_pretrained(model, folder, tokenizer=tokenizer)
    files: dict[str, Any] = {
        "generation_config.json": {"eos_token_id": [1, 2], "do_sample": True, "temperature": 0.7, "top_k": 5},
        "tokenizer_config.json": {
            "bos_token": "a",
            "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}",
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return "."


def _bert(folder: Path) -> str:
    tokenizer = train_tokenizer("bpe", TEXT, vocab_size=280)
    model = Bert(BertConfig(tokenizer.vocab_size, 24, 16, num_heads=2, num_layers=1))
    randomize(model)
    save_pretrained(model, folder, tokenizer=tokenizer)
    return "."


def _gguf(folder: Path) -> str:
    _directory(folder / "source")
    Pretrained(folder / "source").save(folder / "model.gguf")
    for path in (folder / "source").iterdir():
        path.unlink()
    (folder / "source").rmdir()
    return "model.gguf"


def _gpt(vocab_size: int) -> GPT:
    model = GPT(GPTConfig(vocab_size, 24, 12, num_heads=3, num_layers=1))
    randomize(model)
    return model


def _nanogpt(folder: Path) -> str:
    from exchange.test_training_files import nanogpt

    tokenizer = CharacterTokenizer.train(TEXT)
    torch.save(nanogpt(False, tokenizer.vocab_size), folder / "ckpt.pt")
    stoi = {character: i for i, character in enumerate(tokenizer.characters)}
    meta = {"vocab_size": len(stoi), "itos": {i: c for c, i in stoi.items()}, "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return "ckpt.pt"


def _compyute(folder: Path) -> str:
    save_compyute(_gpt(30), folder / "model.cp")
    return "model.cp"


FORMATS: dict[str, Callable[[Path], str]] = {
    "directory": _directory,
    "bert": _bert,
    "gguf": _gguf,
    "nanogpt": _nanogpt,
    "compyute": _compyute,
}


# --- mutations ---


def _of_numbers(data: bytes, chance: random.Random) -> bytes:
    """Write a number where one may be, such as a length, an offset or a kind."""
    size, found = chance.choice((1, 2, 4, 8)), bytearray(data)
    at = chance.randrange(max(1, min(len(data), chance.choice((64, 1024, 1 << 30))) - size + 1))
    number = chance.choice((0, 1, 2, 255, len(data), *HUGE)) if chance.random() < 0.8 else chance.getrandbits(64)
    found[at : at + size] = (number % 256**size).to_bytes(size, "little")
    return bytes(found)


def _of_header(data: bytes, chance: random.Random) -> bytes:
    """Change the JSON at the beginning of a safetensors file, with its length as it then is."""
    length = int.from_bytes(data[:8], "little")
    header = of_json(data[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _mutated(name: str, data: bytes, chance: random.Random) -> bytes:
    ways = [of_bytes, flip, _of_numbers]
    if name.endswith(".json"):
        ways = [of_json, of_json, of_bytes, flip]
    if name.endswith(".safetensors"):
        ways += [_of_header, _of_header]
    return chance.choice(ways)(data, chance)


# --- what is read ---


def _open(path: Path, **options: Any) -> None:
    """Read everything that `compyute chat`, `generate` and `convert` read, and compute one forward pass."""
    opened = Pretrained(path, **options)
    model = opened.model
    ids = np.zeros((1, 3), np.int64)
    if opened.has_tokenizer:
        opened.tokenizer.decode(opened.encode("the owl"))
    if isinstance(model, Bert):
        model(ids)
        return
    _ = opened.defaults, opened.special_texts
    if opened.template_source is not None:
        opened.chat_template.render([{"role": "user", "content": "hello"}])
    model(ids)


def fuzz_models(format: str, mutations: int, seed: int) -> list[str]:
    """Return what broke a rule: the file, the number of the mutation, and what happened."""
    faults = []
    with tempfile.TemporaryDirectory() as name, use_kernels("reference"), np.errstate(all="ignore"):
        folder = Path(name)
        path = folder / FORMATS[format](folder)
        files = {each.name: each.read_bytes() for each in sorted(folder.iterdir())}
        options = {"num_heads": 3} if format == "compyute" else {}  # which its files do not tell
        _open(path, **options)
        for number in range(mutations):
            chance = random.Random(f"{format} {seed} {number}")
            changed = sorted(files)[number % len(files)]
            data = _mutated(changed, files[changed], chance)
            (folder / changed).write_bytes(data)
            tracemalloc.start()
            fault, _ = broken_rule(lambda: _open(path, **options))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            most = BESIDE + 2 * max(sum(map(len, files.values())), len(data))
            if not fault and peak > most:
                fault = f"{peak:,} bytes of memory for {len(data):,} of the file"
            if fault:
                faults.append(f"{format}: {changed}, mutation {number}: {fault}")
            (folder / changed).write_bytes(files[changed])
            if number % 1000 == 999:
                print(f"{format}: {number + 1:,} done, {len(faults)} broke a rule", file=sys.stderr, flush=True)
    return faults


def main() -> int:
    """Fuzz each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=5000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=tuple(FORMATS), action="append")
    options = parser.parse_args()
    formats = options.format or list(FORMATS)
    faults = [fault for each in formats for fault in fuzz_models(each, options.mutations, options.seed)]
    print(*faults, sep="\n\n")
    print(f"{len(faults)} of {options.mutations * len(formats):,} broke a rule")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
