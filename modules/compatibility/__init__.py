"""Whether models go together: what differs, what that changes, and what to do."""
