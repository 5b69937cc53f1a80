"""This machine, as every target uses it: private files, free ports, and processes that are supervised."""
