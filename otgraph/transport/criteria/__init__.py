"""Selection criteria: one small strategy per file, listed in ``catalog``."""
