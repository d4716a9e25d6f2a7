"""Model folders: found, read tensor by tensor, and what lies beside the weights; builds no model."""
