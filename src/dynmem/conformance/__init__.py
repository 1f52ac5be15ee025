"""A suite that holds any host or guest of VMBus and the Dynamic Memory Protocol to what its peers rely on."""
