"""Recipes made ready to run, read from files and shown, and the catalogue of what is installed."""
