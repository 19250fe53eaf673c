"""Images with class labels.

corpus   find images in a folder with one sub-folder per class, and split them class by class
files    find, inspect and read image files
batches  normalized float arrays with labels, in shuffled epochs
"""
