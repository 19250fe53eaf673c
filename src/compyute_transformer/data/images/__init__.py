"""Images by class: corpora, files and batches."""
