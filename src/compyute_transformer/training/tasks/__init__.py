"""The tasks a model is trained on: language, translation, image classification."""
