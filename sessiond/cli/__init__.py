"""sessionctl: one module per group of verbs, rendering apart."""
