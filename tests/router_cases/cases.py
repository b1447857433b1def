"""What the two Routers are asked, and how an answer is written down: JSON only, for a process of its own."""

MESSAGES = [{"role": "user", "content": "hello"}]

LONG = [{"role": "user", "content": "many words " * 100}]


def deployment(group, model, *, id=None, **params):  # noqa: A002 - LiteLLM's name
    """An entry of `model_list`; the model says how the loopback server answers."""
    info = {"model_info": {"id": id}} if id else {}
    return {"model_name": group, "litellm_params": {"model": f"openai/{model}", "api_key": "sk-x", **params}, **info}


def case(*deployments, calls=({"model": "a"},), many=1, **arguments):
    """One Router and its calls."""
    return {"deployments": list(deployments), "arguments": {"num_retries": 0, **arguments}, "calls": [*calls] * many}


def tagged(*tags):
    """A call with these tags."""
    return {"model": "a", "metadata": {"tags": [*tags]}}


def tiers(*groups, **more):
    """A group with a deployment for each list of tags, named by them."""
    return [deployment("a", f"ok-{'-'.join(tags) or 'none'}", tags=list(tags), **more) for tags in groups]


OWN_TAGS = {"litellm_metadata": {"tags": ["paid"]}}
TIERS = tiers(["free"], ["paid"], ["default"])
A, B, C = deployment("a", "ok-a"), deployment("b", "ok-b"), deployment("c", "ok-c")
CALL_B = {"model": "b"}


def bad(status, group="a"):
    """A deployment that fails with a status."""
    return deployment(group, f"e{status}-{group}")


CASES = {
    "one deployment": case(A),
    "alias": case(
        A, calls=[{"model": "x"}, {"model": "y"}], model_group_alias={"x": "a", "y": {"model": "a", "hidden": True}}
    ),
    "wildcard": case(deployment("up/*", "*"), calls=[{"model": "up/ok-1"}, {"model": "up/e404-x"}]),
    "wildcard with a fixed model": case(deployment("up/*", "ok-fixed"), calls=[{"model": "up/anything"}]),
    "two stars": case(deployment("*-of-*", "ok-*-*"), calls=[{"model": "x-of-y"}]),
    "more stars asked than given": case(deployment("*/ok-*", "*"), calls=[{"model": "openai/ok-z"}]),
    "most specific wildcard": case(
        deployment("*", "ok-all"), deployment("my*", "ok-my"), calls=[{"model": "mymodel"}, {"model": "other"}]
    ),
    "wildcard by the vendor of a bare model": case(deployment("openai/*", "*"), calls=[{"model": "gpt-4o"}]),
    "group before wildcard": case(deployment("*", "ok-all"), A),
    "dots are no wildcards": case(deployment("m.1*", "ok-m"), calls=[{"model": "mx1"}]),
    "deployment by id": case(A, deployment("a", "ok-a2", id="second"), calls=[{"model": "second"}], many=4),
    "unknown model": case(A, calls=[{"model": "nowhere"}]),
    "unknown model with default fallbacks": case(A, B, calls=[{"model": "nowhere"}], default_fallbacks=["b"]),
    **{
        f"fallback after {status}": case(bad(status), B, fallbacks=[{"a": ["b"]}])
        for status in (401, 403, 404, 429, 500, 503)
    },
    **{f"{status} alone": case(bad(status)) for status in (400, 401, 403, 404, 408, 422, 429, 500, 502, 503, 504)},
    "second fallback": case(bad(503), bad(500, "b"), C, fallbacks=[{"a": ["b", "c"]}]),
    "all fail": case(bad(429), bad(503, "b"), bad(500, "c"), fallbacks=[{"a": ["b", "c"]}]),
    "default fallbacks": case(bad(503), B, default_fallbacks=["b"]),
    "own fallbacks before default ones": case(bad(503), B, C, fallbacks=[{"a": ["c"]}], default_fallbacks=["b"]),
    "fallback of an alias": case(
        bad(503), B, calls=[{"model": "x"}], model_group_alias={"x": "a"}, fallbacks=[{"x": ["b"]}]
    ),
    "fallback with other messages": case(
        bad(503), B, fallbacks=[{"a": [{"model": "b", "messages": [{"role": "user", "content": "shorter"}]}]}]
    ),
    "context window": case(
        deployment("a", "context"), B, C, context_window_fallbacks=[{"a": ["b"]}], fallbacks=[{"a": ["c"]}]
    ),
    "context window without fallback": case(deployment("a", "context")),
    "content policy": case(
        deployment("a", "policy"), B, C, content_policy_fallbacks=[{"a": ["b"]}], fallbacks=[{"a": ["c"]}]
    ),
    "content policy without fallback": case(deployment("a", "policy")),
    "no such fallback group": case(bad(503), fallbacks=[{"a": ["nowhere"]}]),
    "fallbacks of the call": case(
        bad(503), B, calls=[{"model": "a", "fallbacks": ["b"]}, {"model": "a", "fallbacks": [{"a": ["b"]}]}]
    ),
    "fallbacks switched off": case(
        bad(503), B, calls=[{"model": "a", "disable_fallbacks": True}], fallbacks=[{"a": ["b"]}]
    ),
    "order": case(deployment("a", "ok-2", order=2), deployment("a", "ok-1", order=1), many=5),
    "order without the first": case(deployment("a", "ok-2", order=2), deployment("a", "e503-1", order=1)),
    "weights": case(deployment("a", "ok-1", weight=1), deployment("a", "ok-0", weight=0), many=8),
    "weight beats rpm": case(deployment("a", "ok-1", weight=1), deployment("a", "ok-rpm", rpm=900), many=8),
    "equal shuffle": case(deployment("a", "ok-1"), deployment("a", "ok-2"), many=24),
    "least busy": case(deployment("a", "ok-1"), deployment("a", "ok-2"), many=24, routing_strategy="least-busy"),
    "cost": case(
        deployment("a", "ok-dear", input_cost_per_token=0.3, output_cost_per_token=0.3),
        deployment("a", "ok-cheap", input_cost_per_token=0.001, output_cost_per_token=0.001),
        many=6,
        routing_strategy="cost-based-routing",
    ),
    "usage": case(deployment("a", "ok-1"), deployment("a", "ok-2"), many=12, routing_strategy="usage-based-routing-v2"),
    "latency": case(deployment("a", "ok-1"), deployment("a", "ok-2"), many=6, routing_strategy="latency-based-routing"),
    "latency prefers the fast one": case(
        deployment("a", "slow-1"), deployment("a", "ok-2"), many=8, routing_strategy="latency-based-routing"
    ),
    "retries": case(bad(503), num_retries=1),
    "retries of a deployment": case(deployment("a", "e503-a", num_retries=1)),
    "window checked before the call": case(
        {**A, "model_info": {"id": "small", "max_input_tokens": 5}},
        {**deployment("a", "ok-a2"), "model_info": {"id": "wide", "max_input_tokens": 5000}},
        calls=[{"model": "a", "messages": LONG}],
        many=4,
        enable_pre_call_checks=True,
    ),
    "window checked, fallback": case(
        {**A, "model_info": {"id": "small", "max_input_tokens": 5}},
        B,
        calls=[{"model": "a", "messages": LONG}],
        enable_pre_call_checks=True,
        context_window_fallbacks=[{"a": ["b"]}],
    ),
    "tags": case(*TIERS, calls=[tagged("paid"), tagged("free")], many=3, enable_tag_filtering=True),
    "no tags, unknown tags": case(
        *TIERS, calls=[{"model": "a"}, tagged("odd"), tagged("paid", "odd")], many=3, enable_tag_filtering=True
    ),
    "tags without filtering": case(*tiers(["free"]), calls=[tagged("paid")]),
    "tags with a mark": case(
        *tiers(["eu", "fast"], ["eu"]),
        calls=[tagged("&eu", "fast"), tagged("!fast")],
        many=3,
        enable_tag_filtering=True,
    ),
    "every tag": case(
        *tiers(["eu", "fast"], ["eu"]),
        calls=[tagged("eu", "fast")],
        many=3,
        enable_tag_filtering=True,
        tag_filtering_match_any=False,
    ),
    "tags of a group": case(
        {**deployment("a", "ok-a", tags=["x"]), "model_info": {"id": "x", "enable_tag_filtering": True}},
        *tiers(["y"]),
        calls=[tagged("y"), tagged("x")],
        many=3,
    ),
    "a fallback with tags of its own": case(
        deployment("a", "e503-a", tags=["paid"]),
        deployment("b", "ok-b", tags=["free"]),
        deployment("b", "ok-b-paid", tags=["paid"]),
        calls=[tagged("paid")] * 8,
        enable_tag_filtering=True,
        fallbacks=[{"a": [{"model": "b", "metadata": {"tags": ["free"]}}]}],
        disable_cooldowns=True,
    ),
    "tags of LiteLLM's own metadata": case(
        *TIERS,
        calls=[{"model": "a", **OWN_TAGS}, {**tagged("free"), **OWN_TAGS}],
        many=3,
        enable_tag_filtering=True,
    ),
    "a group without tags": case(
        {**deployment("a", "ok-a", tags=["x"]), "model_info": {"id": "x", "enable_tag_filtering": False}},
        calls=[tagged("&y")],
        enable_tag_filtering=True,
    ),
    "tags of a fallback for long requests": case(
        deployment("a", "context", tags=["paid"]),
        deployment("b", "ok-b", tags=["free"]),
        deployment("b", "ok-b-paid", tags=["paid"]),
        calls=[tagged("paid")] * 8,
        enable_tag_filtering=True,
        context_window_fallbacks=[{"a": ["b"]}],
    ),
    "tags with a prefix": case(
        *TIERS, calls=[tagged("tier:free"), tagged("!tier:free")], enable_tag_filtering=True, tag_routing_prefix="tier:"
    ),
    "a tagged deployment that fails": case(
        deployment("a", "e503-paid", tags=["paid"]),
        *tiers(["free"]),
        deployment("b", "ok-b", tags=["paid"]),
        deployment("b", "ok-b-free", tags=["free"]),
        calls=[tagged("paid")] * 2,
        enable_tag_filtering=True,
        fallbacks=[{"a": ["b"]}],
    ),
    "a deployment by its id, whatever the tags": case(
        *TIERS,
        deployment("a", "ok-own", id="own", tags=["paid"]),
        calls=[{**tagged("free"), "model": "own"}],
        enable_tag_filtering=True,
    ),
    "retries of the call": case(bad(503), calls=[{"model": "a", "num_retries": 1}]),
    "no retry of a refusal": case(bad(401), num_retries=2),
    "no retry of not found": case(bad(404), num_retries=2),
    "no retry of a bad request": case(bad(400), num_retries=2),
    "retry policy": case(bad(429), num_retries=0, retry_policy={"RateLimitErrorRetries": 1}),
    "retry policy says none": case(
        bad(503), num_retries=2, retry_policy={"InternalServerErrorRetries": 0, "ServiceUnavailableErrorRetries": 0}
    ),
    "retry policy of a group": case(
        bad(429),
        bad(429, "b"),
        calls=[{"model": "a"}, CALL_B],
        retry_policy={"RateLimitErrorRetries": 0},
        model_group_retry_policy={"a": {"RateLimitErrorRetries": 1}},
    ),
    "a flaky deployment": case(deployment("a", "flaky"), num_retries=1),
    "cooldown": case(bad(503), calls=[{"model": "a"}], many=3, disable_cooldowns=True),
    "default parameters": case(A, default_litellm_params={"temperature": 0.25, "user": "team"}),
    "the call's own parameters": case(
        A, calls=[{"model": "a", "temperature": 0.5}], default_litellm_params={"temperature": 0.25}
    ),
    "parameters of a deployment": case(deployment("a", "ok-a", temperature=0.75, extra_body={"x": 1})),
    "streams": case(A, calls=[{"model": "a", "stream": True}]),
    "stream with a fallback": case(bad(503), B, calls=[{"model": "a", "stream": True}], fallbacks=[{"a": ["b"]}]),
}


def arguments_of(name, url):
    """The Router's arguments for a case; its name in the address tells the server's requests apart."""
    base = f"{url}/{name.replace(' ', '-')}"
    deployments = [
        {**entry, "litellm_params": {**entry["litellm_params"], "api_base": base}}
        for entry in CASES[name]["deployments"]
    ]
    return {"model_list": deployments, **CASES[name]["arguments"]}


def listed(router, name):
    """What a Router lists: its names, and the models behind each name that the calls of a case ask for."""
    asked = sorted({keywords["model"] for keywords in CASES[name]["calls"]})
    behind = {model: [entry["litellm_params"]["model"] for entry in router.get_model_list(model)] for model in asked}
    return {"names": sorted(router.get_model_names()), "behind": behind, "count": len(router.model_list)}


async def outcomes(router, name):
    """What each call of a case came to: its text, or the class of its exception."""
    return [await outcome(router, keywords) for keywords in CASES[name]["calls"]]


async def outcome(router, keywords):
    """The text of an answer, or the name of LiteLLM's class of an exception."""
    try:
        answer = await router.acompletion(**{"messages": MESSAGES, **keywords})
        if not keywords.get("stream"):
            return answer.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
    except Exception as error:  # noqa: BLE001 - whatever comes is the outcome
        return name_of(error)


def name_of(error):
    """LiteLLM's class of an exception, which may be of ours too."""
    theirs = (kind for kind in type(error).__mro__ if kind.__module__.startswith(("litellm", "openai")))
    return next(theirs, type(error)).__name__
