"""The trial: who is killed, what stays unmet, how long memory takes: dynmem beside its rivals."""
