"""Text: corpora, tokenizers and batches of tokens.

corpus      read a text from a built-in source, files or folders, and split it into a training and a validation part
characters  the tokenizer with one token per distinct character
bpe         the byte pair encoding tokenizer
tokenizer   the protocol both tokenizers follow, and how to train or load one
chats       conversations in JSON lines, of which the answers are predicted
batches     arrays (x, y) of shape (B, T): random windows for training, every window once for validation
"""
