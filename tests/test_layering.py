"""Who may import whom: the map of the architecture."""
