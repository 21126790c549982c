"""Measurements whose numbers survive a change of machine; `worldmodels bench` prints them."""
