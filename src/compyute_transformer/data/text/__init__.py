"""Text: corpora, tokenizers and batches."""
