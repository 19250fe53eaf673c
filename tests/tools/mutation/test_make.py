"""Mutants: by every rule, all different, never of the validation, the same each time."""

import re
from collections import Counter

from mutation_helpers import TARGETS

from mutation.make import Mutant, make_mutants
from mutation.rules import RULES


def test_every_rule_makes_mutants_and_no_two_are_the_same(mutants: list[Mutant]) -> None:
    assert set(Counter(mutant.rule for mutant in mutants)) == set(RULES)
    assert len(mutants) >= 1000
    assert all(mutant.before != mutant.after for mutant in mutants)
    references = {(mutant.target.name, mutant.code.code, mutant.code.defaults) for mutant in mutants}
    assert len(references) >= 0.98 * len(mutants), "what is written differently may compile to the same"


def test_the_validation_is_not_mutated(mutants: list[Mutant]) -> None:
    assert not [m for m in mutants if "check_" in m.before.replace("check_multi_head", "computes D and K")]
    assert not [m for m in mutants if re.fullmatch(r"raise.*|array_module\([^()]*\)", m.before)]


def test_the_same_mutants_are_made_each_time(mutants: list[Mutant]) -> None:
    target = TARGETS["layer_norm_backward"]
    again = [str(mutant) for mutant in make_mutants(target)]
    assert again == [str(mutant) for mutant in mutants if mutant.target is target]
