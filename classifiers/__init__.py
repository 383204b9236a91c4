"""Text in, signals out: features, encoders, heads, and artifacts that hold what was learnt. Synchronous."""
