"""`dynmem web`: the page, what it asks for as JSON, and a live stream, in a process of its own."""
