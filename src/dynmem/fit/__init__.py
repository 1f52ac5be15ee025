"""How many more VMs fit: counted on what was recorded, with the error that it had, on one host or many."""
