"""The folder of a run: what is written, how it is read back, and who may write to it.

folder      start and resume a run
load        read a trained model, and evaluate it
config      config.json and the encoder's file: everything that decides what a run becomes
checkpoint  weights, optimizer, random state and data cursor, written whole or not at all
lock        only one process at a time trains a run
"""
