"""Training as a chain of epochs over a ledger."""
