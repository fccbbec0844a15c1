"""Strangers' files: read without running code, written whole."""
