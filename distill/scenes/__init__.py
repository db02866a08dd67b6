"""Procedural low-poly worlds, rendered off-screen with exact camera poses."""
