"""Random JSON Schemas with every keyword that matters here, and values that often satisfy them."""

WORDS = ["red", "green", "grey", "a", "ab", "é"]
NAMES = ["a", "ab", "kind", "name", "b"]
PLAIN = [None, True, False, 0, 1, 2.0, -3.5, "red", "grey", "", [], {}, [1], {"a": 1}]


def schema(rng, depth=3):
    """A random schema; references point to `#/$defs/x` and `#`."""
    found = _schema(rng, depth)
    also = {"$ref": "#/$defs/x"} if rng.random() < 0.2 else {}
    return {**(found if isinstance(found, dict) else {}), **also, "$defs": {"x": _schema(rng, depth - 1)}}


def _schema(rng, depth):
    makers = [_plain_type, _several_types, _listed, _object, _object, _list, _extras]
    if depth > 0:
        makers += [_union, _both, _reference, _denied, _conditional, _object, _list]
    return rng.choice(makers)(rng, depth - 1)


def _plain_type(rng, depth):
    return {"type": rng.choice(["string", "integer", "number", "boolean", "null", "object", "array"])}


def _several_types(rng, depth):
    return {"type": rng.sample(["string", "integer", "boolean", "object", "array", "null"], 2)}


def _listed(rng, depth):
    return {"const": rng.choice(PLAIN)} if rng.random() < 0.3 else {"enum": rng.sample([*WORDS, *PLAIN], 4)}


def _extras(rng, depth):
    return rng.choice(
        [{}, True, False, {"minimum": 1}, {"pattern": "^[ar]"}, {"maxLength": 2}, {"minItems": 1}, {"multipleOf": 2}]
    )


def _object(rng, depth):
    names = rng.sample(NAMES, rng.randrange(1, 4))
    found = {"properties": {name: _schema(rng, depth) if depth > 0 else _plain_type(rng, 0) for name in names}}
    if rng.random() < 0.7:
        found["type"] = "object"
    if rng.random() < 0.6:
        found["required"] = rng.sample(names, rng.randrange(1, len(names) + 1))
    if rng.random() < 0.6:
        found["additionalProperties"] = rng.choice([False, False, True, {"type": "integer"}])
    if rng.random() < 0.1:
        found["nullable"] = True
    if rng.random() < 0.1:
        found["patternProperties"] = {"^a": {"type": "string"}}
    return found


def _list(rng, depth):
    if rng.random() < 0.2:  # a tuple as up to 2019-09
        return {"type": "array", "items": [_schema(rng, 0)], "additionalItems": rng.choice([False, {"type": "null"}])}
    found = {"type": "array", "items": _schema(rng, depth) if depth > 0 else rng.choice([False, {"type": "integer"}])}
    return {**found, "prefixItems": [_schema(rng, 0)]} if rng.random() < 0.3 else found


def _union(rng, depth):
    branches = [_schema(rng, depth) for _ in range(rng.randrange(1, 4))]
    return {rng.choice(["anyOf", "oneOf"]): branches, **(_object(rng, 0) if rng.random() < 0.3 else {})}


def _both(rng, depth):
    return {"allOf": [_schema(rng, depth) for _ in range(2)]}


def _reference(rng, depth):
    """A reference one level further in: one that leads to itself at once has no meaning."""
    target = {"$ref": rng.choice(["#/$defs/x", "#"]), **(_object(rng, 0) if rng.random() < 0.3 else {})}
    return rng.choice([{"properties": {"a": target}}, {"type": "array", "items": target}])


def _denied(rng, depth):
    return {"not": _schema(rng, depth)}


def _conditional(rng, depth):
    return {"if": _schema(rng, depth), "then": _schema(rng, depth), "else": _schema(rng, depth)}


def value(rng, wanted, root, depth=4):
    """A value that tends to satisfy `wanted`."""
    if not isinstance(wanted, dict) or depth < 0 or rng.random() < 0.08:
        return rng.choice(PLAIN)
    if "$ref" in wanted:
        return value(rng, root if wanted["$ref"] == "#" else root["$defs"]["x"], root, depth - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if wanted.get(word):
            return value(rng, rng.choice(wanted[word]), root, depth - 1)
    if "const" in wanted or "enum" in wanted:
        return rng.choice([wanted["const"]] if "const" in wanted else wanted["enum"])
    return _typed(rng, wanted, root, depth)


def _typed(rng, wanted, root, depth):
    kind = wanted.get("type", "object" if "properties" in wanted else "string")
    kind = rng.choice(kind) if isinstance(kind, list) else kind
    if kind == "object":
        names = [*wanted.get("required", ()), *(name for name in NAMES if rng.random() < 0.3)]
        inside = {name: wanted.get("properties", {}).get(name, {"type": "integer"}) for name in names}
        return {name: value(rng, each, root, depth - 1) for name, each in inside.items()}
    if kind == "array":
        items = wanted.get("items")
        inside = items[0] if isinstance(items, list) else items
        return [value(rng, inside, root, depth - 1) for _ in range(rng.randrange(3))]
    choices = {"string": WORDS, "integer": [0, 1, 2, 2.0, -7], "number": [0.5, 3, -1e3], "boolean": [True, False]}
    return rng.choice(choices.get(kind, [None]))
