"""``dynmem top``: a status, again and again: as rows of CSV, and as a live table."""
