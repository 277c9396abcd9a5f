"""Which post-processing helps a trained run, learned on cases that did not train it."""
