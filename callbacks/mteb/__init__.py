"""MTEB tasks: chosen, loaded, capped, embedded, scored, and compared."""
