"""The result of a run: tables, pictures, pages."""
