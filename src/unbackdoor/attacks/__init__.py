"""Attacks: one file is one method."""
