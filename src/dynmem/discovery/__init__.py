"""The virtual machines of this host: found in /proc and in Proxmox's files, and nothing asked of them."""
