"""Scanners: does a model hold a backdoor, and for which class? One method a file."""
