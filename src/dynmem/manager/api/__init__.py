"""The manager's socket: the messages, the server, what it does for its clients, and a client."""
