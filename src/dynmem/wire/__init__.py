"""Bytes and typed messages: Dynamic Memory, VMBus control messages, ring packets, SynIC, hardware."""
