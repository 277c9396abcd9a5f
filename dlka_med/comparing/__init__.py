"""Networks trained, predicted and evaluated on equal terms."""
