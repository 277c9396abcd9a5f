"""What PyTorch Lightning must be told to train a network; no other room knows Lightning."""
