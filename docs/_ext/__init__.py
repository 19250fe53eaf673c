"""What this site needs beside Sphinx: formulas, checks, and tables made from the code."""
