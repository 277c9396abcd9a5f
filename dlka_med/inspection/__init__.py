"""Looking into a network: what it costs, what it sees, and where its kernel points went."""
