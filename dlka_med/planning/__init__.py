"""From the facts of a dataset and a budget to a complete config, every value with its reason."""
