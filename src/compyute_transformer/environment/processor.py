"""Processor: the kind that a machine has, "amd-epyc-zen-3". Results of benchmarks are kept apart by it."""

import re

__all__ = ["architecture", "kind_of", "processor_kind"]

# What LLVM writes as one word, and its makers as two.
PARTED = re.compile(r"(?<=[a-z])(rapids|lake|forest|bridge)")
ZEN = re.compile(r"znver(\d)")


def architecture() -> str | None:
    """Return the name of the processor's design, "zen 3" or "sapphire rapids"; None without Numba's compiler.

    LLVM finds it by the family, the model and the features of the processor.
    """
    try:
        from llvmlite import binding
    except ImportError:
        return None
    found: str = PARTED.sub(r" \1", ZEN.sub(r"zen \1", str(binding.get_host_cpu_name())))
    return None if found in ("", "generic") else found


def kind_of(name: str, design: str | None) -> str:
    """Return a short name of the processor that is the same for all of its kind, fit for a folder: "amd-epyc-zen-3".

    name: as the system has it. Its first two words are the maker and the line of products; a number of a model, the
    number of cores and marks are left out. design: its `architecture`, which stands in place of the number.
    """
    plain = re.sub(r"\(.*?\)|@.*", " ", name)
    words = [word for word in re.findall(r"[A-Za-z][\w-]*", plain) if word.lower() not in ("cpu", "processor")]
    brand = [word for word in words if not re.search(r"\d", word)][:2]
    if design is None:
        return _slug(name)
    if design.split()[0].startswith(tuple(word.lower() for word in brand[:1])):  # "apple-m2" has its maker
        brand = []
    return _slug(" ".join([*brand, design]))


def processor_kind() -> str:
    """Return the kind of this machine's processor, by which results of benchmarks are kept in folders."""
    from .machine import processor_name

    return kind_of(processor_name(), architecture())


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower())) or "unknown"
