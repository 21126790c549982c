"""Static data sets: read, checked, turned into rows, and written."""
