"""What only a GPU can show: that it computes what the CPU does, that training runs on it, and how fast."""
