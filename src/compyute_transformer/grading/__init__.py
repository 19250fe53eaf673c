"""Grading: a learner's forward and backward compared with the right ones, and the term that is wrong named.

check(softmax_forward, softmax_backward)        in a notebook
grade_file(Path("softmax.py"))                  a file, in a process of its own: what `compyute grade` does
zoo.mistake("softmax-without-sum")              a classic mistake, switched on in the library
"""

from . import zoo as zoo
from .exercises import EXERCISES
from .file import grade_file
from .report import Grade, check, grade_functions

__all__ = ["EXERCISES", "Grade", "check", "grade_file", "grade_functions"]
