"""Compile every kernel, as it is launched, for real chips without one, and see what it needs."""
