"""Model folders: their place, their weights tensor by tensor, their settings and identity; builds no model."""
