"""The socket of the manager: who answers on it, what is answered, and the client."""
