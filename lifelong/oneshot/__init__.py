"""One-shot selection: a good part of one dataset without a stream, and what is fitted or trained for it."""
