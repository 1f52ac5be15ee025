"""Who gets how much: a snapshot in, a plan with a reason for every number out."""
