"""Tables of what a learner can have graded, and of the mistakes that can be switched on.

```{exercises}      every op that `compyute grade` knows: its functions, and what they compute
```{mistakes}       every mistake of the zoo: its name, what is wrong, and the term
"""

from sphinx.application import Sphinx

from compyute_transformer.grading import EXERCISES, zoo

from .markdown import MarkdownDirective, table


class Exercises(MarkdownDirective):
    """Every exercise."""

    def markdown(self) -> str:
        """One row an op."""
        rows = [
            [f"`{name}_forward({', '.join(each.parameters)})`", f"`{', '.join(each.gradients)}`", each.formula]
            for name, each in EXERCISES.items()
        ]
        return table(["forward", "what the backward returns", "formula"], rows)


class Mistakes(MarkdownDirective):
    """Every mistake."""

    def markdown(self) -> str:
        """One row a mistake."""
        rows = [[f"`{made.name}`", f"`{made.op}`", made.wrong, made.term] for made in zoo.MISTAKES.values()]
        return table(["name", "op", "what the code does", "the term"], rows)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("exercises", Exercises)
    app.add_directive("mistakes", Mistakes)
