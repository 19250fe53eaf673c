"""The zoo of mistakes: classic errors of forwards and backwards written by hand, each switched on by its name.

    from compyute_transformer.grading import zoo

    with zoo.mistake("softmax-without-sum"):        the op computes the wrong thing, meanwhile
        ...
    zoo.MISTAKES["softmax-without-sum"].hint        what leads to it

The mistakes lie in files by the topic of their op, with the right code one import away.
"""

from . import activation, attention, block, dropout, embedding, linear, loss, norm  # noqa: F401  (they register)
from .record import MISTAKES, Mistake, mistake

__all__ = ["MISTAKES", "Mistake", "mistake"]
