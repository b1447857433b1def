"""Prints what LiteLLM's own Router makes of each YAML file named on stdin, as one JSON object.

Run as a process of its own: a Router registers callbacks in LiteLLM's module. Settings for the Router count from
`litellm_settings` too, as LiteLLM's proxy sets those on the module the Router looks at.
"""

import asyncio
import json
import logging
import sys

import litellm
import yaml
from litellm import Router  # noqa: TID251 - the peer that configurations are compared with

VALID = set(Router.get_valid_args())


def module_settings(raw):
    """Those of `litellm_settings` that LiteLLM's proxy sets on the module and its Router looks up there."""
    return {key: value for key, value in (raw.get("litellm_settings") or {}).items() if key in VALID}


def facts(path):
    """What a Router reports after loading the file."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a script without the package's helpers
        raw = yaml.safe_load(file) or {}
    module = module_settings(raw)
    own = {key: value for key, value in (raw.get("router_settings") or {}).items() if key in VALID}
    elsewhere = {key: value for key, value in module.items() if not hasattr(litellm, key)}
    known = {key: value for key, value in (elsewhere | own).items() if not key.startswith(("redis", "cache"))}
    before = {key: getattr(litellm, key) for key in module.keys() - elsewhere.keys()}
    try:
        for key in before:
            setattr(litellm, key, module[key])
        return report(Router(model_list=raw.get("model_list"), **known))
    finally:
        for key, value in before.items():
            setattr(litellm, key, value)


def plain(policy):
    """A policy as a mapping, whether LiteLLM made an object of it or not."""
    if isinstance(policy, dict):
        return {key: plain(value) for key, value in policy.items()}
    return policy.model_dump(exclude_none=True) if hasattr(policy, "model_dump") else policy


def deployment(entry):
    """What decides where a call goes, of one deployment."""
    params = entry["litellm_params"]
    return [entry["model_name"], params["model"], *(params.get(key) for key in ("rpm", "tpm", "weight", "order"))]


def report(router):
    """The facts that a configuration of ours must give as well."""
    return {
        "allowed_fails_policy": plain(router.allowed_fails_policy) or None,
        "content_policy": router.content_policy_fallbacks or None,
        "each": sorted((deployment(entry) for entry in router.model_list), key=repr),
        "group_retry_policy": plain(router.model_group_retry_policy) or None,
        "max_fallbacks": router.max_fallbacks,
        "pre_call_checks": router.enable_pre_call_checks,
        "tags": [router.enable_tag_filtering, router.tag_filtering_match_any, router.tag_routing_prefix],
        "retry_after": router.retry_after,
        "retry_policy": plain(router.retry_policy) or None,
        "stream_timeout": router.stream_timeout,
        "alias": router.model_group_alias or None,
        "allowed_fails": router.allowed_fails,
        "cooldown": router.cooldown_time,
        "cwf": router.context_window_fallbacks or None,
        "deployments": len(router.model_list),
        "fallbacks": router.fallbacks or None,
        "groups": sorted({deployment["model_name"] for deployment in router.model_list}),
        "num_retries": router.num_retries,
        "strategy": router.routing_strategy,
    }


async def main():
    """Inside a loop: a Router with budgets starts a task."""
    logging.disable(logging.CRITICAL)
    found = {}
    for path in sys.stdin.read().splitlines():
        try:
            found[path] = facts(path)
        except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises is the answer
            found[path] = {"error": type(error).__name__}
    keys = {
        "router": sorted(VALID),
        "params": sorted(litellm.types.router.LiteLLM_Params.model_fields),
        "providers": sorted(str(getattr(provider, "value", provider)) for provider in litellm.provider_list),
    }
    sys.stdout.write("\n" + json.dumps({"files": found, "keys": keys}) + "\n")


asyncio.run(main())
