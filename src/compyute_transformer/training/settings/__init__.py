"""The settings of a run: their types, defaults, presets and choices."""
