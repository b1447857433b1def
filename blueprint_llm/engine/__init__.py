"""One request from top to bottom: route, cache, reserve, send, validate, settle, and what to do about a failure."""
