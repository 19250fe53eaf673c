"""Lesson 7: dropout."""


def dropout_forward(x, keep, probability):
    return x * keep / (1 - probability), (keep, probability)


def dropout_backward(dy, saved):
    keep, probability = saved
    return dy * keep / (1 - probability)
