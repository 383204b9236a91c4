"""Text in, signals out: features, encoders, heads, and the artifact that holds what was learnt. Synchronous, batch first."""
