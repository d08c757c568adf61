"""How rows are really held in fewer bytes: packed codes, bitmaps, missing channels. Every class here is a `Rows` (see `kvlab.rows`).

A codec never decodes to drop or to join rows: `keep` and `join` gather what is stored.
"""
