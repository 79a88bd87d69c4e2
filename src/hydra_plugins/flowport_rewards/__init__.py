"""Rewards of the user's own code as configs of the group ``reward``."""
