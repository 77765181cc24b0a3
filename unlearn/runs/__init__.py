"""Whole runs, which the command line and Python call: finetune, forget, references."""
