"""The pure core: frozen values, the policy document, the decision, and money. No I/O, no clock, no randomness."""
