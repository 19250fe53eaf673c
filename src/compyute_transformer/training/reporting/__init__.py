"""Everything a run reports: events, the log, progress bars, TensorBoard, metrics.

events       what happens in a run, as plain values
journal      log.jsonl and samples.txt
reporters    plain lines for a pipe, JSON lines for a program
choose       which reporter suits a stream
progress     a progress bar for a terminal
tensorboard  TensorBoard files, on request
metrics      exact match, BLEU and chrF of translations
confusion    the confusion matrix of a classifier
next_steps   which command to run next
"""
