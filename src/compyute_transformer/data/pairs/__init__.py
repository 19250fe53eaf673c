"""Pairs of texts: a source and the target to be predicted from it.

corpus   read pairs from tab-separated files and split them
dates    generated pairs: dates written in many formats, and the same dates in ISO format
batches  padded arrays with their lengths, and the special tokens that begin and end a target
"""
