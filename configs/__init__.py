"""Configuration as Hydra groups: ``env``, ``method``, ``algo``, ``recipe``; and the shift levels."""
