"""The verb study: a comparison of all routes to one model, with its tables and pictures."""
