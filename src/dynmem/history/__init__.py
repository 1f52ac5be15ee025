"""What the manager found, decided and did, kept on disk: bounded in bytes, thinner with age."""
