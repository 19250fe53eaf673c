"""Pairs of texts, a source and its target: corpora and batches."""
