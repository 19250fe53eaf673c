"""`python -m compyute_transformer` is the command `compyute`."""

from .cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
