"""What a target is sent: messages cut to its window, and of the project only what it may see.

Both are pure decisions, taken anew for every target of a chain: `shape` fits, `policy_for` and `apply` hold back.
"""
