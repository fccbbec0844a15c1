"""Defenses: one file is one method."""
