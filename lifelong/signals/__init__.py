"""The signals of a pool: which are measured, which are kept, what reads them, and who gets no score by them."""
