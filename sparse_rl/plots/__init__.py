"""What runs have learnt, side by side: their folders are read, grouped over seeds, drawn, and written as a table."""
