"""The models: STAR, the padded models beside it, and the registry that builds any of them by name."""
