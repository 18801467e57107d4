"""Figures by the official rules, counted image by image."""
