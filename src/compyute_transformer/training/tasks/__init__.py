"""The tasks a model can be trained on: what a batch, a loss and a metric are.

task         the protocols that the trainer and the run's folder use, and what all supervised tasks share
language     predict the next token of a text
masked       predict hidden tokens of a text
chat         predict the answers of conversations
translation  predict a target text from a source text
images       predict the class of an image
registry     find the record of a task by its name, or by what the data look like
"""
