"""Contrastive losses: the maths, the batch they need, the metrics beside them."""
