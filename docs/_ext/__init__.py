"""What this site needs beside Sphinx: formulas, proofs, and tables made from the code."""
