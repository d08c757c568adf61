"""The field as a tree: one folder per axis, one file per method. Adding a file here is all it takes."""
