"""What other programs can use."""
